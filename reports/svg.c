/* svg: gnuplot's SVG made part of a page.
 *
 * Only known elements and attributes pass, so whatever a file holds, the page gets shapes and text and nothing that acts
 * or fetches. Ids and the references to them get the figure's name, black becomes the page's text colour, and the
 * palette's colours become variables that the page sets for light and dark. gnuplot escapes text itself: a '<' in the file
 * is always a tag. */
#include "reports/figure.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *rgb, *variable; /* as gnuplot prints it, without blanks */
} palette[] = {
	{"rgb(0,114,178)", "blue"},   {"rgb(230,159,0)", "orange"},   {"rgb(0,158,115)", "green"},  {"rgb(213,94,0)", "red"},
	{"rgb(86,180,233)", "sky"},   {"rgb(204,121,167)", "purple"}, {"rgb(153,153,153)", "grey"}, {"rgb(208,208,208)", "faint"},
	{"rgb(187,187,187)", "pale"}, {"rgb(128,128,128)", "axis"},   {"rgb(0,0,0)", "ink"},        {"black", "ink"},
};

static bool in_list(const char *list, const char *word, size_t length)
{
	for (const char *at = list; *at; at += strcspn(at, " "), at += *at == ' ')
		if (strcspn(at, " ") == length && strncmp(at, word, length) == 0)
			return true;
	return false;
}

static bool known_element(const char *name, size_t length)
{
	return in_list("svg g path polygon polyline line rect circle ellipse text tspan use defs", name, length);
}

static bool known_attribute(const char *name, size_t length)
{
	return in_list(
		"viewBox d points x y x1 y1 x2 y2 cx cy r rx ry width height dx dy transform fill stroke color stroke-width "
		"stroke-linecap stroke-linejoin stroke-dasharray fill-opacity stroke-opacity font-size font-weight font-style "
		"text-anchor shape-rendering class id",
		name, length);
}

/* A colour of the palette as a variable of the page, any other value as it is. */
static void put_value(FILE *out, const char *value, size_t length)
{
	char plain[32];
	size_t used = 0;

	for (size_t i = 0; i < length && used + 1 < sizeof plain; i++)
		if (value[i] != ' ')
			plain[used++] = value[i];
	plain[used] = '\0';
	for (size_t i = 0; length < 32 && i < sizeof palette / sizeof palette[0]; i++)
		if (strcmp(plain, palette[i].rgb) == 0) {
			fprintf(out, "var(--%s)", palette[i].variable);
			return;
		}
	for (size_t i = 0; i < length; i++)
		fputc(strchr("\"<>&", value[i]) ? ' ' : value[i], out);
}

static void put_attribute(FILE *out, const char *name, size_t name_length, const char *value, size_t length, const char *figure)
{
	bool reference =
		(name_length == 10 && strncmp(name, "xlink:href", 10) == 0) || (name_length == 4 && strncmp(name, "href", 4) == 0);

	if (reference) {
		if (length > 1 && value[0] == '#')
			fprintf(out, " href=\"#%s-%.*s\"", figure, (int)length - 1, value + 1);
		return;
	}
	if (!known_attribute(name, name_length) || memchr(value, ':', length))
		return;
	if (name_length == 5 && strncmp(name, "color", 5) == 0 && length == 5 && strncmp(value, "black", 5) == 0)
		return; /* inherits the page's */
	fprintf(out, " %.*s=\"", (int)name_length, name);
	if (name_length == 2 && strncmp(name, "id", 2) == 0)
		fprintf(out, "%s-", figure);
	put_value(out, value, length);
	fputc('"', out);
}

/* The attributes from `at` to the tag's '>'; returns what follows it, or NULL. */
static const char *put_attributes(FILE *out, const char *at, bool root, const char *figure)
{
	for (;;) {
		at += strspn(at, " \t\r\n");
		if (*at == '/' && at[1] == '>') {
			fputs("/>", out);
			return at + 2;
		}
		if (*at == '>') {
			fputc('>', out);
			return at + 1;
		}
		size_t name_length = strcspn(at, " \t\r\n=>/");
		const char *name = at;
		at += name_length;
		at += strspn(at, " \t\r\n");
		if (!name_length || *at != '=')
			return NULL;
		at++;
		at += strspn(at, " \t\r\n");
		char quote = *at;
		const char *end = quote == '"' || quote == '\'' ? strchr(at + 1, quote) : NULL;
		if (!end)
			return NULL;
		bool size = root && (strncmp(name, "width", name_length) == 0 || strncmp(name, "height", name_length) == 0);
		if (!size) /* the page decides how large */
			put_attribute(out, name, name_length, at + 1, (size_t)(end - at - 1), figure);
		at = end + 1;
	}
}

/* gnuplot closes and opens a group at each change of pen: the empty ones are a third of the file. */
static const char *skip_empty_group(const char *at)
{
	const char *end = strchr(at, '>');

	if (strncmp(at, "<g ", 3) != 0 || !end)
		return NULL;
	end++;
	end += strspn(end, " \t\r\n");
	return strncmp(end, "</g>", 4) == 0 ? end + 4 : NULL;
}

/* One tag; returns what follows it (for an element that may not pass: what follows its end), or NULL. */
static const char *put_tag(FILE *out, const char *at, const char *figure)
{
	bool closing = at[1] == '/';
	const char *name = at + 1 + closing, *skipped = skip_empty_group(at);
	size_t length = strcspn(name, " \t\r\n/>");

	if (skipped)
		return skipped;
	if (*name == '?' || *name == '!' || !known_element(name, length)) {
		bool text = in_list("title desc style script", name, length) && !closing;
		const char *end = text ? strstr(name, "</") : name;
		end = end ? strchr(end, '>') : NULL;
		return end ? end + 1 : NULL;
	}
	if (closing) {
		fprintf(out, "</%.*s>", (int)length, name);
		return strchr(name, '>') ? strchr(name, '>') + 1 : NULL;
	}
	bool root = length == 3 && strncmp(name, "svg", 3) == 0;
	fprintf(out, "<%.*s", (int)length, name);
	if (root) /* what it shows is said by the label beside it */
		fprintf(out, " role=\"img\" aria-labelledby=\"%s-alt\"", figure);
	return put_attributes(out, name + length, root, figure);
}

char *mt_svg_inline(const char *svg, const char *name)
{
	char *text = NULL;
	size_t bytes = 0;
	const char *at = strstr(svg, "<svg");
	FILE *out = at ? open_memstream(&text, &bytes) : NULL;

	if (!out)
		return NULL;
	while (at && *at) {
		if (*at == '<') {
			at = put_tag(out, at, name);
		} else if (isspace((unsigned char)*at)) { /* indentation */
			const char *next = at + strspn(at, " \t\r\n");
			if (*next != '<')
				fputc(' ', out);
			at = next;
		} else {
			fputc(*at++, out);
		}
	}
	fclose(out);
	if (!at) {
		free(text);
		return NULL;
	}
	return text;
}
