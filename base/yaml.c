/* yaml: libyaml's events made into a tree that remembers lines. */
#include "base/yaml.h"

#include "base/file.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define MOST_BYTES ((size_t)16 << 20)
#define MOST_DEPTH 32

struct reader {
	yaml_parser_t parser;
	const char *file; /* owned by the root in the end */
};

static enum mt_status syntax_error(struct reader *reader)
{
	const yaml_parser_t *p = &reader->parser;
	if (p->error == YAML_MEMORY_ERROR)
		return mt_fail(MT_NOMEM, "out of memory reading %s", reader->file);
	if (p->error == YAML_READER_ERROR)
		return mt_fail(MT_INPUT, "%s: %s at byte %zu; YAML is UTF-8 text", reader->file, p->problem, p->problem_offset);
	return mt_fail(MT_INPUT, "%s:%zu: %s%s%s", reader->file, p->problem_mark.line + 1, p->problem ? p->problem : "not YAML",
		       p->context ? ", " : "", p->context ? p->context : "");
}

static enum mt_status next_event(struct reader *reader, yaml_event_t *event)
{
	return yaml_parser_parse(&reader->parser, event) ? MT_OK : syntax_error(reader);
}

static int event_line(const yaml_event_t *event)
{
	return (int)event->start_mark.line + 1;
}

static struct mt_yaml *new_node(struct reader *reader, enum mt_yaml_kind kind, int line)
{
	struct mt_yaml *node = calloc(1, sizeof *node);
	if (node) {
		node->kind = kind;
		node->file = reader->file;
		node->line = line;
	}
	return node;
}

static void free_node(struct mt_yaml *node)
{
	if (!node)
		return;
	for (size_t i = 0; i < node->count; i++) {
		if (node->keys)
			free(node->keys[i]);
		free_node(node->items[i]);
	}
	free(node->keys);
	free(node->items);
	free(node->text);
	free(node);
}

/* Room for one more item: capacities are powers of two, so the count tells when to grow. */
static bool make_room(struct mt_yaml *node)
{
	if (node->count & (node->count - 1))
		return true;
	size_t room = node->count ? node->count * 2 : 1;
	struct mt_yaml **items = realloc(node->items, room * sizeof *items);
	if (!items)
		return false;
	node->items = items;
	if (node->kind == MT_YAML_MAP) {
		char **keys = realloc(node->keys, room * sizeof *keys);
		if (!keys)
			return false;
		node->keys = keys;
	}
	return true;
}

static enum mt_status out_of_memory(struct reader *reader)
{
	return mt_fail(MT_NOMEM, "out of memory reading %s", reader->file);
}

/* Anchors and tags give a file meanings that a reader of it does not see: refused. */
static enum mt_status check_plain(struct reader *reader, const yaml_char_t *anchor, const yaml_char_t *tag, int line)
{
	if (anchor)
		return mt_fail(MT_INPUT, "%s:%d: anchors (&%s) are not supported; write the value out", reader->file, line,
			       (const char *)anchor);
	if (tag)
		return mt_fail(MT_INPUT, "%s:%d: tags (%s) are not supported; remove it", reader->file, line, (const char *)tag);
	return MT_OK;
}

static enum mt_status scalar_text(struct reader *reader, const yaml_event_t *event, char **text)
{
	size_t length = event->data.scalar.length;
	const char *value = (const char *)event->data.scalar.value;

	MT_TRY(check_plain(reader, event->data.scalar.anchor, event->data.scalar.tag, event_line(event)));
	if (memchr(value, '\0', length))
		return mt_fail(MT_INPUT, "%s:%d: a NUL character in a text", reader->file, event_line(event));
	*text = malloc(length + 1);
	if (!*text)
		return out_of_memory(reader);
	memcpy(*text, value, length);
	(*text)[length] = '\0';
	return MT_OK;
}

static enum mt_status read_node(struct reader *reader, yaml_event_t *event, int depth, struct mt_yaml **node);

struct key_line {
	const char *key;
	int line;
};

static int compare_keys(const void *a, const void *b)
{
	const struct key_line *x = a, *y = b;
	int order = strcmp(x->key, y->key);
	return order ? order : x->line - y->line;
}

static enum mt_status check_duplicates(struct reader *reader, const struct mt_yaml *map)
{
	enum mt_status st = MT_OK;
	struct key_line *sorted = malloc((map->count ? map->count : 1) * sizeof *sorted);

	if (!sorted)
		return out_of_memory(reader);
	for (size_t i = 0; i < map->count; i++)
		sorted[i] = (struct key_line){map->keys[i], map->items[i]->line};
	qsort(sorted, map->count, sizeof *sorted, compare_keys);
	for (size_t i = 1; i < map->count && st == MT_OK; i++)
		if (strcmp(sorted[i - 1].key, sorted[i].key) == 0)
			st = mt_fail(MT_INPUT, "%s:%d: key '%s' was already given on line %d; keep one", reader->file,
				     sorted[i].line, sorted[i].key, sorted[i - 1].line);
	free(sorted);
	return st;
}

/* One key and its value. The value's line is the key's: that is where a message about either should point. */
static enum mt_status read_pair(struct reader *reader, yaml_event_t *event, int depth, struct mt_yaml *map)
{
	enum mt_status st;
	int line = event_line(event);
	char *key = NULL;
	struct mt_yaml *value = NULL;
	yaml_event_t value_event = {0};

	if (event->type != YAML_SCALAR_EVENT)
		return mt_fail(MT_INPUT, "%s:%d: a key must be a plain name", reader->file, line);
	MT_GOTO(out, scalar_text(reader, event, &key));
	MT_GOTO(out, next_event(reader, &value_event));
	MT_GOTO(out, read_node(reader, &value_event, depth, &value));
	if (!make_room(map))
		MT_GOTO(out, out_of_memory(reader));
	value->line = line;
	map->keys[map->count] = key;
	map->items[map->count++] = value;
	key = NULL;
	value = NULL;
out:
	free_node(value);
	yaml_event_delete(&value_event);
	free(key);
	return st;
}

/* The items of a map or list up to its end event. */
static enum mt_status read_items(struct reader *reader, int depth, struct mt_yaml *node)
{
	yaml_event_type_t end = node->kind == MT_YAML_MAP ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;

	if (depth > MOST_DEPTH)
		return mt_fail(MT_INPUT, "%s:%d: nested deeper than %d levels", reader->file, node->line, MOST_DEPTH);
	for (;;) {
		enum mt_status st = MT_OK;
		yaml_event_t event;
		struct mt_yaml *item = NULL;

		MT_TRY(next_event(reader, &event));
		if (event.type == end) {
			yaml_event_delete(&event);
			return node->kind == MT_YAML_MAP ? check_duplicates(reader, node) : MT_OK;
		}
		if (node->kind == MT_YAML_MAP) {
			st = read_pair(reader, &event, depth, node);
		} else {
			st = read_node(reader, &event, depth, &item);
			if (st == MT_OK && !make_room(node))
				st = out_of_memory(reader);
			if (st == MT_OK)
				node->items[node->count++] = item;
			else
				free_node(item);
		}
		yaml_event_delete(&event);
		MT_TRY(st);
	}
}

/* The node that begins with `event`; *node is NULL on failure. */
static enum mt_status read_node(struct reader *reader, yaml_event_t *event, int depth, struct mt_yaml **node)
{
	enum mt_status st = MT_OK;
	int line = event_line(event);
	enum mt_yaml_kind kind = MT_YAML_SCALAR;

	*node = NULL;
	switch (event->type) {
	case YAML_ALIAS_EVENT:
		return mt_fail(MT_INPUT, "%s:%d: aliases (*%s) are not supported; write the value out", reader->file, line,
			       (const char *)event->data.alias.anchor);
	case YAML_MAPPING_START_EVENT:
		kind = MT_YAML_MAP;
		MT_TRY(check_plain(reader, event->data.mapping_start.anchor, event->data.mapping_start.tag, line));
		break;
	case YAML_SEQUENCE_START_EVENT:
		kind = MT_YAML_LIST;
		MT_TRY(check_plain(reader, event->data.sequence_start.anchor, event->data.sequence_start.tag, line));
		break;
	case YAML_SCALAR_EVENT:
		break;
	default:
		return mt_fail(MT_INPUT, "%s:%d: a value is missing", reader->file, line);
	}
	struct mt_yaml *made = new_node(reader, kind, line);
	if (!made)
		return out_of_memory(reader);
	if (kind == MT_YAML_SCALAR) {
		made->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
		st = scalar_text(reader, event, &made->text);
	} else {
		st = read_items(reader, depth + 1, made);
	}
	if (st != MT_OK)
		free_node(made);
	else
		*node = made;
	return st;
}

/* Stream, at most one document, its root. No document is an empty map: a file of comments sets nothing. */
static enum mt_status read_stream(struct reader *reader, struct mt_yaml **root)
{
	enum mt_status st = MT_OK;
	yaml_event_type_t type = YAML_NO_EVENT;

	while (st == MT_OK && type != YAML_STREAM_END_EVENT) {
		yaml_event_t event;
		MT_TRY(next_event(reader, &event));
		type = event.type;
		if (type == YAML_DOCUMENT_START_EVENT && *root)
			st = mt_fail(MT_INPUT, "%s:%d: a second document; a file holds one", reader->file, event_line(&event));
		else if (type != YAML_STREAM_START_EVENT && type != YAML_STREAM_END_EVENT && type != YAML_DOCUMENT_START_EVENT &&
			 type != YAML_DOCUMENT_END_EVENT)
			st = read_node(reader, &event, 0, root);
		yaml_event_delete(&event);
	}
	if (st == MT_OK && !*root && !(*root = new_node(reader, MT_YAML_MAP, 1)))
		st = out_of_memory(reader);
	return st;
}

static enum mt_status parse_bytes(struct mt_yaml **root, const char *text, size_t bytes, const char *name)
{
	enum mt_status st;
	struct reader reader = {.file = strdup(name)};

	*root = NULL;
	if (!reader.file)
		return mt_fail(MT_NOMEM, "out of memory reading %s", name);
	if (!yaml_parser_initialize(&reader.parser)) {
		st = out_of_memory(&reader);
	} else {
		yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, bytes);
		st = read_stream(&reader, root);
		yaml_parser_delete(&reader.parser);
	}
	if (st != MT_OK) {
		free_node(*root);
		*root = NULL;
		free((char *)reader.file);
	}
	return st;
}

enum mt_status mt_yaml_parse(struct mt_yaml **root, const char *text, const char *name)
{
	return parse_bytes(root, text, strlen(text), name);
}

enum mt_status mt_yaml_load(struct mt_yaml **root, const char *path)
{
	char *text;
	size_t bytes;

	*root = NULL;
	MT_TRY(mt_file_read(path, MOST_BYTES, &text, &bytes));
	enum mt_status st = parse_bytes(root, text, bytes, path);
	free(text);
	return st;
}

void mt_yaml_free(struct mt_yaml *root)
{
	if (!root)
		return;
	free((char *)root->file);
	free_node(root);
}
