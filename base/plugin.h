/* plugin: parts of the program that need libraries not every machine has, loaded when first asked for.
 *
 * The program itself links no CUDA. What needs it is built as build/megatune-NAME.so, found at run time, and reached
 * through one table of functions. A plugin resolves mt_* symbols from the program and exports one symbol, mt_plugin_entry. */
#ifndef MT_BASE_PLUGIN_H
#define MT_BASE_PLUGIN_H

#include "base/status.h"

/* The table of plugin NAME, valid until the process ends: a plugin is loaded once and never unloaded. Any thread.
 * `abi` is what the caller was built for, a number of the header that declares the table.
 * Looked for in $MEGATUNE_PLUGINS, beside the executable, and in ../lib/megatune of it, in this order.
 * MT_UNAVAILABLE: no such plugin (this build has no CUDA), a library it needs is not installed, or it is of another version. */
enum mt_status mt_plugin_open(const char *name, int abi, const void **table);

/* Loads it without asking for its table: whether it, and all libraries that it needs, are there. */
enum mt_status mt_plugin_load(const char *name);

/* The one function a plugin exports, as `megatune_plugin`: its table, or NULL when it was built for another abi. */
typedef const void *mt_plugin_entry(int abi);
#define MT_PLUGIN_EXPORT __attribute__((visibility("default")))

/* dlopen(soname), also from where CUDA's libraries are when the loader does not know: $CUDA_HOME and $CUDA_PATH,
 * /usr/local/cuda, and the nvidia packages of a Python found on PATH. Libraries that `file` itself lacks are looked for
 * in the same places. The handle is never closed. MT_UNAVAILABLE with the loader's message. */
enum mt_status mt_library_open(const char *file, void **handle);

#endif
