/* analyzer: read before every file by `make lint` only (-include), never built. Tells clang's analyzer what it cannot see from
 * one file: mt_fail returns the status it was given, so what follows a failed check does not run. */
#include "base/status.h"

#ifdef __clang_analyzer__
#define mt_fail(status, ...) (mt_fail(status, __VA_ARGS__), (status))
#endif
