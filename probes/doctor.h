/* doctor: what this machine has, what is missing, what that leaves out, and what to do about it. */
#ifndef MT_PROBES_DOCTOR_H
#define MT_PROBES_DOCTOR_H

#include "base/status.h"

#include <jansson.h>
#include <stdio.h>

/* Writes the report of this host to `file` (NULL: none), at most 80 columns, and to *json (NULL: none; a new reference):
 *   {"host": NAME, "rows": [{"item", "state": "ok" | "absent" | "warn", "value", "leaves_out", "do"}], "ok": n, "absent": n,
 * "warn": n} leaves_out and do are null where nothing is left out. Starts no more than `mpirun --version` and the like. MT_OK
 * whatever is missing. */
enum mt_status mt_doctor_report(FILE *file, json_t **json);

#endif
