/* indexed: what the reader and the writer of Megatron's indexed data set share; the format is in indexed.c. */
#ifndef MT_ENGINE_INDEXED_H
#define MT_ENGINE_INDEXED_H

#define MT_INDEXED_MAGIC      "MMIDIDX\0" /* nine bytes with the terminator */
#define MT_INDEXED_HEAD_BYTES 34

enum mt_indexed_code {
	MT_INDEXED_U8 = 1,
	MT_INDEXED_I8 = 2,
	MT_INDEXED_I16 = 3,
	MT_INDEXED_I32 = 4,
	MT_INDEXED_I64 = 5,
	MT_INDEXED_F64 = 6,
	MT_INDEXED_F32 = 7,
	MT_INDEXED_U16 = 8,
};

#endif
