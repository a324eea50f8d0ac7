/*
 * Sentence embeddings on a Cortex-M: prints each text's ids and embedding, then halts.
 *
 * The model lies in a memory of its own (MODEL in the linker script), put there by a debugger, by
 * picotool, or by QEMU's loader; nothing of it is linked in.
 */
#include "grouse.h"

/* Most tokens of one text, and the memory for it: grouse_arena_bytes says how much. */
#define TOKENS 64
#define MAX_DIMENSION 1024

extern const unsigned char model_start[];

static GrouseModel model;
static uint32_t ids[TOKENS];
static float embedding[MAX_DIMENSION];
static unsigned char arena[1 << 20] __attribute__((aligned(16)));

static const char *const texts[] = {
    "",
    "A man is playing a guitar on stage.",
    "Na\xc3\xafve caf\xc3\xa9s: the dog and the man, 3.14!",
};

/* Semihosting: the debugger's, or QEMU's, console. */
static int semihost(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void print(const char *text) { semihost(0x04, text); }

static void print_hex(uint32_t value)
{
    char digits[10];
    for (int i = 0; i < 8; i++)
        digits[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
    digits[8] = ' ';
    digits[9] = 0;
    print(digits);
}

static _Noreturn void halt(int failed)
{
    const uint32_t block[2] = {0x20026, (uint32_t)failed};
    semihost(0x20, block);
    for (;;) {
    }
}

static void expect(GrouseStatus status)
{
    if (status == GROUSE_OK)
        return;
    print("error: ");
    print(grouse_status_text(status));
    print("\n");
    halt(1);
}

int main(void)
{
    size_t length, needed;
    expect(grouse_file_length(model_start, 64, &length));
    expect(grouse_open(&model, model_start, length));
    expect(grouse_arena_bytes(&model, TOKENS, &needed, NULL));
    size_t dimension = grouse_dimension(&model);
    if (needed > sizeof arena || dimension > MAX_DIMENSION) {
        print("error: the model needs more memory than this program has\n");
        halt(1);
    }

    GrouseSelfTest result;
    expect(grouse_self_test(&model, ids, TOKENS, arena, sizeof arena, embedding, dimension, &result));
    print("self-test passed ");
    print_hex(result.passed);
    print("backend ");
    print(grouse_backend());
    print("\n");

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        size_t bytes = 0, tokens;
        while (texts[i][bytes])
            bytes++;
        expect(grouse_embed(&model, texts[i], bytes, ids, TOKENS, &tokens, arena, sizeof arena,
                            embedding, dimension));
        print("ids ");
        for (size_t t = 0; t < tokens; t++)
            print_hex(ids[t]);
        print("\nembedding ");
        for (size_t k = 0; k < dimension; k++) {
            union {
                float value;
                uint32_t bits;
            } number = {embedding[k]};
            print_hex(number.bits);
        }
        print("\n");
    }
    halt(0);
}
