/* What runs before main on a Cortex-M with a floating-point unit. */
#include <stdint.h>

extern uint32_t stack_top[], data_source[], data_start[], data_end[], bss_start[], bss_end[];
int main(void);
void reset(void);

void reset(void)
{
    uint32_t *from = data_source;
    for (uint32_t *to = data_start; to < data_end;)
        *to++ = *from++;
    for (uint32_t *to = bss_start; to < bss_end;)
        *to++ = 0;
    /* CPACR: coprocessors 10 and 11 are the floating-point unit. */
    *(volatile uint32_t *)0xe000ed88 |= 0xf << 20;
    __asm__ volatile("dsb\n\tisb");
    main();
    for (;;) {
    }
}

static void fault(void)
{
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_top, reset, fault, fault, fault, fault, fault,
};
