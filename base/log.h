/* log: levelled lines on stderr, with a rank prefix when several ranks write. Libraries log; only commands print results. */
#ifndef MT_BASE_LOG_H
#define MT_BASE_LOG_H

enum mt_log_level { MT_LOG_ERROR, MT_LOG_WARN, MT_LOG_INFO, MT_LOG_DEBUG };

/* Process-wide: the least severe level that is written (default MT_LOG_WARN), and the prefix "[rank/world host]"
 * (no prefix when world <= 1). Set once, before threads start. */
void mt_log_set_level(enum mt_log_level level);
void mt_log_set_rank(int rank, int world, const char *host);

void mt_log_write(enum mt_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define mt_error(...) mt_log_write(MT_LOG_ERROR, __VA_ARGS__)
#define mt_warn(...)  mt_log_write(MT_LOG_WARN, __VA_ARGS__)
#define mt_info(...)  mt_log_write(MT_LOG_INFO, __VA_ARGS__)
#define mt_debug(...) mt_log_write(MT_LOG_DEBUG, __VA_ARGS__)

#endif
