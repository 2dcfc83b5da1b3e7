/* tokenizer_pattern: the regular expressions that cut text into pieces, by PCRE2.
 *
 * tokenizer.json writes them in Oniguruma's dialect. Where they differ in what they match, they are rewritten: \s is Unicode's
 * White_Space (PCRE2 counts U+180E too), \d and \w are Unicode's. What cannot be rewritten is refused. */
#include "engine/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

#ifdef MT_HAVE_PCRE2

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define SPACES "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define WORDS  "\\p{L}\\p{M}\\p{N}\\p{Pc}"

/* The most that a match may keep on the stack of compiled code; deeper ones go through the interpreter, on the heap. */
#define JIT_STACK_BYTES (1 << 20)

struct mt_matcher {
	pcre2_match_data *match;
	pcre2_match_context *context;
	pcre2_jit_stack *stack;
};

/* A class that a backslash and a letter stand for; NULL: the escape is left as it is. */
static const char *class_of(char letter)
{
	switch (letter) {
	case 's':
	case 'S':
		return SPACES;
	case 'd':
	case 'D':
		return "\\p{Nd}";
	case 'w':
	case 'W':
		return WORDS;
	default:
		return NULL;
	}
}

static enum mt_status rewrite_escape(struct mt_buffer *out, const char *at, bool in_class, const char *path)
{
	const char *class = class_of(at[1]);
	bool negated = at[1] == 'S' || at[1] == 'D' || at[1] == 'W';

	if (!class)
		return mt_buffer_append(out, at, 2);
	if (in_class && negated)
		return mt_fail(MT_INPUT, "%s: a pattern has \\%c inside a class, which is not supported", path, at[1]);
	if (!in_class)
		MT_TRY(mt_buffer_append(out, negated ? "[^" : "[", negated ? 2 : 1));
	MT_TRY(mt_buffer_append(out, class, strlen(class)));
	return in_class ? MT_OK : mt_buffer_append(out, "]", 1);
}

static enum mt_status rewrite(struct mt_buffer *out, const char *pattern, const char *path)
{
	bool in_class = false;

	for (const char *at = pattern; *at; at++) {
		if (*at == '\\' && at[1]) {
			MT_TRY(rewrite_escape(out, at, in_class, path));
			at++;
			continue;
		}
		if (in_class && (*at == '[' || (at[0] == '&' && at[1] == '&')))
			return mt_fail(MT_INPUT, "%s: a pattern has a class inside a class, which is not supported: %s", path,
				       pattern);
		if (*at == '[')
			in_class = true;
		if (*at == ']')
			in_class = false;
		MT_TRY(mt_buffer_append(out, at, 1));
	}
	return MT_OK;
}

enum mt_status mt_pattern_compile(void **code, const char *pattern, bool literal, const char *path)
{
	struct mt_buffer text = {0};
	PCRE2_UCHAR why[160];
	PCRE2_SIZE where = 0;
	int error = 0;
	enum mt_status st;

	*code = NULL;
	MT_GOTO(out, literal ? mt_buffer_append(&text, pattern, strlen(pattern)) : rewrite(&text, pattern, path));
	*code = pcre2_compile((PCRE2_SPTR)text.data, text.bytes, PCRE2_UTF | (literal ? PCRE2_LITERAL : 0), &error, &where, NULL);
	if (!*code) {
		pcre2_get_error_message(error, why, sizeof why);
		st = mt_fail(MT_INPUT, "%s: a pattern cannot be used: %s, in %s", path, (const char *)why, pattern);
		goto out;
	}
	(void)pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE); /* where there is no compiler for it, it is interpreted */
out:
	free(text.data);
	return st;
}

void mt_pattern_free(void *code)
{
	pcre2_code_free(code);
}

enum mt_status mt_matcher_create(struct mt_matcher **matcher)
{
	struct mt_matcher *m = calloc(1, sizeof *m);

	*matcher = m;
	if (m) {
		m->match = pcre2_match_data_create(1, NULL);
		m->context = pcre2_match_context_create(NULL);
		m->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_BYTES, NULL); /* NULL: the compiled code uses its own */
	}
	if (!m || !m->match || !m->context) {
		mt_matcher_destroy(m);
		*matcher = NULL;
		return mt_fail(MT_NOMEM, "out of memory for matching");
	}
	if (m->stack)
		pcre2_jit_stack_assign(m->context, NULL, m->stack);
	return MT_OK;
}

void mt_matcher_destroy(struct mt_matcher *matcher)
{
	if (!matcher)
		return;
	pcre2_jit_stack_free(matcher->stack);
	pcre2_match_context_free(matcher->context);
	pcre2_match_data_free(matcher->match);
	free(matcher);
}

enum mt_status mt_matcher_next(struct mt_matcher *matcher, const void *code, const char *text, size_t bytes, size_t from,
			       size_t *start, size_t *end, bool *found)
{
	PCRE2_UCHAR why[160];

	*found = false;
	while (from < bytes) {
		int got = pcre2_match(code, (PCRE2_SPTR)text, bytes, from, PCRE2_NO_UTF_CHECK, matcher->match, matcher->context);
		if (got == PCRE2_ERROR_JIT_STACKLIMIT)
			got = pcre2_match(code, (PCRE2_SPTR)text, bytes, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, matcher->match,
					  matcher->context);
		if (got == PCRE2_ERROR_NOMATCH)
			return MT_OK;
		if (got < 0) {
			pcre2_get_error_message(got, why, sizeof why);
			return mt_fail(MT_FAILED, "matching a text of %zu bytes failed: %s", bytes, (const char *)why);
		}
		const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(matcher->match);
		*start = ends[0];
		*end = ends[1];
		if (*end > *start) {
			*found = true;
			return MT_OK;
		}
		/* an empty match cuts nothing: on with the next character */
		size_t length;
		(void)mt_utf8_next(text + *start, &length);
		from = *start + length;
	}
	return MT_OK;
}

#else

enum mt_status mt_pattern_compile(void **code, const char *pattern, bool literal, const char *path)
{
	*code = NULL;
	return mt_fail(
		MT_UNAVAILABLE,
		"%s: this tokenizer needs PCRE2, without which megatune was built: install libpcre2-dev (make deps) and build "
		"again",
		path);
}

void mt_pattern_free(void *code)
{
}

/* A matcher that is never asked: without patterns there is nothing to match. */
enum mt_status mt_matcher_create(struct mt_matcher **matcher)
{
	*matcher = NULL;
	return MT_OK;
}

void mt_matcher_destroy(struct mt_matcher *matcher)
{
}

enum mt_status mt_matcher_next(struct mt_matcher *matcher, const void *code, const char *text, size_t bytes, size_t from,
			       size_t *start, size_t *end, bool *found)
{
	*found = false;
	return mt_fail(MT_UNAVAILABLE, "built without PCRE2");
}

#endif
