/*
 * Grouse for C firmware: text in, embedding out, without allocation.
 *
 * Made by cbindgen from runtime/c/src/lib.rs; a test keeps it current. docs/c.md explains it.
 */

#ifndef GROUSE_H
#define GROUSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 Words of a `GrouseModel`.
 */
#define GROUSE_MODEL_WORDS 64

/*
 What a function returns: `GROUSE_OK` or why it refused. `grouse_status_text` has the words.
 */
typedef int32_t GrouseStatus;

/*
 An open model: a view of the file, which must stay where it is. Filled by `grouse_open`; there is
 nothing to close. Its content is Grouse's own.
 */
typedef struct GrouseModel {
  /*
   Grouse's own.
   */
  size_t words[GROUSE_MODEL_WORDS];
} GrouseModel;

/*
 What `grouse_self_test` counted.
 */
typedef struct GrouseSelfTest {
  /*
   Texts with the bits that they should have.
   */
  uint32_t passed;
  /*
   Texts with others, or refused.
   */
  uint32_t failed;
  /*
   Texts with more tokens than the arena or the ids have room for.
   */
  uint32_t skipped;
} GrouseSelfTest;

/*
 All went well.
 */
#define GROUSE_OK 0

/*
 The bytes do not start as a Grouse file does.
 */
#define GROUSE_NOT_GROUSE 1

/*
 The file is of another version of the format.
 */
#define GROUSE_VERSION 2

/*
 The file ends before what it promises.
 */
#define GROUSE_TRUNCATED 3

/*
 A checksum does not match.
 */
#define GROUSE_CHECKSUM 4

/*
 The file's bytes are not what the format allows.
 */
#define GROUSE_MALFORMED 5

/*
 The file (16 bytes), the arena or the output (4 bytes) is not aligned.
 */
#define GROUSE_MISALIGNED 6

/*
 The file uses what this runtime does not know.
 */
#define GROUSE_UNSUPPORTED 7

/*
 The arena is too small; `grouse_arena_bytes` says what is needed.
 */
#define GROUSE_ARENA_TOO_SMALL 8

/*
 More tokens than the model takes.
 */
#define GROUSE_TOO_MANY_TOKENS 9

/*
 An id beyond the vocabulary.
 */
#define GROUSE_TOKEN_OUT_OF_RANGE 10

/*
 No ids were given.
 */
#define GROUSE_NO_TOKENS 11

/*
 The text is not UTF-8.
 */
#define GROUSE_INVALID_UTF8 12

/*
 A buffer has the wrong length: ids for less than two, or an output that is not of the dimension.
 */
#define GROUSE_OUTPUT_LENGTH 13

/*
 The embedding is not a finite number.
 */
#define GROUSE_NOT_FINITE 14

/*
 The file's self-test was made by another edition of the arithmetic.
 */
#define GROUSE_EDITION 15

/*
 A pointer is null, or a length beyond the address space.
 */
#define GROUSE_NULL 100

/*
 The file carries no self-test.
 */
#define GROUSE_NO_SELF_TEST 101

/*
 The self-test found other bits than those that were packed.
 */
#define GROUSE_SELF_TEST_FAILED 102

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Writes the length of the packed file at `file` to `length`, as its header claims: for a model in
 flash. `available` is how many bytes can be read there, 64 at least.

 # Safety
 `available` bytes are readable at `file`; `length` can be written or is null.
 */
GrouseStatus grouse_file_length(const void *file, size_t available, size_t *length);

/*
 Checks the packed file of `length` bytes at `file`, from end to end, and fills `model` with a view
 of it. `file` must lie at a multiple of 16 bytes and stay as it is while the model is used.

 # Safety
 `length` bytes are readable at `file`; `model` can be written.
 */
GrouseStatus grouse_open(struct GrouseModel *model, const void *file, size_t length);

/*
 Values of an embedding; 0 for a model that is not open.

 # Safety
 `model` is null or was filled by `grouse_open`.
 */
size_t grouse_dimension(const struct GrouseModel *model);

/*
 Most tokens of one text, `[CLS]` and `[SEP]` included; 0 for a model that is not open.

 # Safety
 `model` is null or was filled by `grouse_open`.
 */
size_t grouse_max_tokens(const struct GrouseModel *model);

/*
 Writes the bytes of arena that texts of up to `tokens` tokens need: `least` with which they run,
 and `fast` with which each weight is read half as often. Either may be null.

 # Safety
 `model` is null or was filled by `grouse_open`; `least` and `fast` can be written or are null.
 */
GrouseStatus grouse_arena_bytes(const struct GrouseModel *model,
                                size_t tokens,
                                size_t *least,
                                size_t *fast);

/*
 Writes the ids of `text` (UTF-8 of `length` bytes; no NUL is needed) to `ids`, which has room for
 `capacity`, and their number to `tokens`. A longer text is cut, and `truncated` set; both may be
 null.

 # Safety
 `model` is null or was filled by `grouse_open`; `length` bytes are readable at `text`, `capacity`
 ids can be written at `ids`; `tokens` and `truncated` can be written or are null.
 */
GrouseStatus grouse_tokenize(const struct GrouseModel *model,
                             const char *text,
                             size_t length,
                             uint32_t *ids,
                             size_t capacity,
                             size_t *tokens,
                             bool *truncated);

/*
 Writes the embedding of `tokens` ids to `out`, `dimension` floats, with `arena` as working memory:
 `arena_bytes` at a multiple of 4, 16 for speed.

 # Safety
 `model` is null or was filled by `grouse_open`; `tokens` ids are readable at `ids`; `arena` and
 `out` can be written, do not overlap, and are nobody else's during the call.
 */
GrouseStatus grouse_embed_ids(const struct GrouseModel *model,
                              const uint32_t *ids,
                              size_t tokens,
                              void *arena,
                              size_t arena_bytes,
                              float *out,
                              size_t dimension);

/*
 `grouse_tokenize` and `grouse_embed_ids` in one: the embedding of `text`. The ids stay in `ids`,
 their number is written to `tokens`, unless that is null.

 # Safety
 As for the two.
 */
GrouseStatus grouse_embed(const struct GrouseModel *model,
                          const char *text,
                          size_t length,
                          uint32_t *ids,
                          size_t capacity,
                          size_t *tokens,
                          void *arena,
                          size_t arena_bytes,
                          float *out,
                          size_t dimension);

/*
 Runs the texts that the file carries and compares hashes: `GROUSE_OK`, or
 `GROUSE_SELF_TEST_FAILED` when one differs. Texts of more than `capacity` tokens, or too long for
 the arena, are skipped. `result` may be null.

 # Safety
 `model` is null or was filled by `grouse_open`; `arena`, `ids` and `out` can be written, do not
 overlap, and are nobody else's during the call; `result` can be written or is null.
 */
GrouseStatus grouse_self_test(const struct GrouseModel *model,
                              uint32_t *ids,
                              size_t capacity,
                              void *arena,
                              size_t arena_bytes,
                              float *out,
                              size_t dimension,
                              struct GrouseSelfTest *result);

/*
 What a status means and what to do, in English; never null.
 */
const char *grouse_status_text(GrouseStatus status);

/*
 Name of the kernels that this build uses on this processor.
 */
const char *grouse_backend(void);

/*
 The format's version that this library reads.
 */
uint32_t grouse_format_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GROUSE_H */
