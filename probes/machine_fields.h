/* machine_fields: the keys of a machine file, one table a section; reading and writing both come from them. Private. */
#ifndef MT_PROBES_MACHINE_FIELDS_H
#define MT_PROBES_MACHINE_FIELDS_H

#include "probes/machine.h"

#include <stddef.h>

enum mt_field_kind {
	MT_FIELD_TEXT,
	MT_FIELD_INT,
	MT_FIELD_INT64,
	MT_FIELD_DOUBLE,
	MT_FIELD_DTYPE,
	MT_FIELD_OP,
	MT_FIELD_PROVENANCE
};

struct mt_field {
	const char *key;
	enum mt_field_kind kind;
	size_t offset, size; /* size: of a text */
	bool required;
	double least; /* of a number */
};

struct mt_section {
	const char *name; /* "hosts", as the key of the file and in messages */
	const struct mt_field *fields;
	size_t count;
};

extern const struct mt_section mt_section_machine, mt_section_host, mt_section_rate, mt_section_class, mt_section_curve,
	mt_section_gpu, mt_section_nic, mt_section_copies;

/* Format of the file; raised when an older program would misread it. */
#define MT_MACHINE_SCHEMA 1

/* pair_class in the file: one text a rank, one character a partner: '.' itself, then these. */
#define MT_CLASS_DIGITS "0123456789abcdefghijklmnopqrstuvwxyz"

#endif
