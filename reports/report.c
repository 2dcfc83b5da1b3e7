/* report: the page and its figures from one document. */
#include "reports/report.h"

#include "base/file.h"
#include "base/json.h"
#include "reports/page.h"
#include "reports/scale.h"

#include <stdlib.h>
#include <string.h>

static enum mt_status write_page(const struct record *record, const char *directory, const char *why)
{
	struct mt_file file = {0};
	char *path = mt_string("%s/report.html", directory);
	enum mt_status st = path ? MT_OK : mt_fail(MT_NOMEM, "no memory for a path");

	if (st == MT_OK)
		st = mt_file_create(&file, path);
	if (st == MT_OK) {
		struct page page = {.out = file.stream, .record = record, .directory = directory, .figures_why = why};
		st = mt_page_write(&page);
	}
	if (st == MT_OK)
		st = mt_file_commit(&file);
	mt_file_abort(&file);
	free(path);
	return st;
}

enum mt_status mt_report_write(const json_t *result, const char *directory)
{
	struct record record = {0};
	char why[256] = "";
	enum mt_status st;

	if (strcmp(mt_json_get_string(result, "command", ""), "scale") == 0)
		return mt_scale_report(result, directory);
	MT_GOTO(out, mt_record_read(&record, result));
	MT_GOTO(out, mt_file_make_directory(directory));
	MT_GOTO(out, mt_figures_write(&record, directory, why, sizeof why));
	st = write_page(&record, directory, why);
out:
	mt_record_free(&record);
	return st;
}
