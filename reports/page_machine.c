/* page_machine: what it ran on, how long it took, and where each number comes from. */
#include "reports/page.h"

#include "base/json.h"

#include <math.h>

#define MOST_HOSTS  64
#define MOST_CURVES 64

static const char *text_of(const json_t *object, const char *key)
{
	return mt_json_get_string(object, key, "\xe2\x80\x93");
}

static void put_hosts(const struct page *page)
{
	const json_t *hosts = mt_record_array(page->record->machine, "hosts"), *host;
	char text[TEXT_BYTES];
	size_t i;

	if (!json_array_size(hosts))
		return;
	fputs("<h3>Hosts</h3>\n", page->out);
	mt_page_table_start(page, "Host|Processor|#Cores|#Memory|#Ranks", false);
	json_array_foreach((json_t *)hosts, i, host)
	{
		if (!json_is_object(host) || i >= MOST_HOSTS)
			continue;
		fputs("<tr>", page->out);
		mt_page_cell(page, text_of(host, "name"));
		mt_page_cell(page, text_of(host, "cpu"));
		mt_page_number(page, mt_text_count(text, mt_record_number(host, "cores")));
		mt_page_number(page, mt_text_bytes(text, mt_record_number(host, "memory_bytes")));
		mt_page_number(page, mt_text_count(text, mt_record_number(host, "ranks")));
		fputs("</tr>\n", page->out);
	}
	mt_page_table_end(page, false);
	if (json_array_size(hosts) > MOST_HOSTS)
		fprintf(page->out, "<p class=\"soft\">%zu more hosts are in result.json.</p>\n",
			json_array_size(hosts) - MOST_HOSTS);
}

static void put_rates(const struct page *page)
{
	const json_t *rates = mt_record_array(page->record->machine, "rates"), *rate;
	char text[TEXT_BYTES];
	size_t i;

	if (!json_array_size(rates))
		return;
	fputs("<h3>Matrix products</h3>\n", page->out);
	mt_page_table_start(page, "Type|#Threads a rank|#Busy ranks a host|#TFLOP/s a rank", false);
	json_array_foreach((json_t *)rates, i, rate)
	{
		if (!json_is_object(rate))
			continue;
		fputs("<tr>", page->out);
		mt_page_cell(page, text_of(rate, "dtype"));
		mt_page_number(page, mt_text_count(text, mt_record_number(rate, "threads")));
		mt_page_number(page, mt_text_count(text, mt_record_number(rate, "busy_ranks")));
		mt_page_number(page, mt_text_number(text, mt_record_number(rate, "tflops")));
		fputs("</tr>\n", page->out);
	}
	mt_page_table_end(page, false);
}

static void put_classes(const struct page *page)
{
	const json_t *classes = mt_record_array(page->record->machine, "pair_classes"), *class;
	char text[TEXT_BYTES];
	size_t i;

	if (!json_array_size(classes))
		return;
	fputs("<h3>Pairs of ranks</h3>\n", page->out);
	mt_page_table_start(page, "Class|#Pairs|#Latency (us)|#Bandwidth (GB/s, one way)", false);
	json_array_foreach((json_t *)classes, i, class)
	{
		if (!json_is_object(class))
			continue;
		fputs("<tr>", page->out);
		mt_page_cell(page, text_of(class, "name"));
		mt_page_number(page, mt_text_count(text, mt_record_number(class, "pairs")));
		mt_page_number(page, mt_text_number(text, mt_record_number(class, "latency_us")));
		mt_page_number(page, mt_text_number(text, mt_record_number(class, "bandwidth_gbps")));
		fputs("</tr>\n", page->out);
	}
	mt_page_table_end(page, false);
}

static double best_busbw(const json_t *curve)
{
	double best = NAN;
	for (size_t i = 0; i < json_array_size(mt_record_array(curve, "busbw_gbps")); i++)
		best = fmax(best, mt_record_item(curve, "busbw_gbps", i));
	return best;
}

static enum mt_status put_curves(const struct page *page)
{
	const json_t *curves = mt_record_array(page->record->machine, "curves"), *curve;
	char text[TEXT_BYTES];
	bool shown;
	size_t i;

	fputs("<h3>Collectives</h3>\n", page->out);
	MT_TRY(mt_page_figure(page, &mt_figure_collectives, &shown));
	if (!json_array_size(curves))
		return MT_OK;
	mt_page_table_start(
		page, "Operation|Type|#Ranks|#Stride|#Alpha (us)|#1/beta (GB/s)|#Fit residual|#Best busbw (GB/s)|#Points", false);
	json_array_foreach((json_t *)curves, i, curve)
	{
		if (!json_is_object(curve) || i >= MOST_CURVES)
			continue;
		fputs("<tr>", page->out);
		mt_page_cell(page, text_of(curve, "op"));
		mt_page_cell(page, text_of(curve, "dtype"));
		mt_page_number(page, mt_text_count(text, mt_record_number(curve, "size")));
		mt_page_number(page, mt_text_count(text, mt_record_number(curve, "stride")));
		mt_page_number(page, mt_text_number(text, mt_record_number(curve, "alpha_us")));
		mt_page_number(page, mt_text_number(text, mt_record_number(curve, "bandwidth_gbps")));
		mt_page_number(page, mt_text_percent(text, mt_record_number(curve, "residual_frac"), ""));
		mt_page_number(page, mt_text_number(text, best_busbw(curve)));
		mt_page_number(page, mt_text_count(text, (double)json_array_size(mt_record_array(curve, "bytes"))));
		fputs("</tr>\n", page->out);
	}
	mt_page_table_end(page, false);
	fputs("<p class=\"soft\">Fit: seconds = alpha + beta &times; bytes. Bus bandwidth as nccl-tests defines it; GB/s = 1e9 "
	      "bytes/s.</p>\n",
	      page->out);
	return MT_OK;
}

enum mt_status mt_page_machine(const struct page *page)
{
	const struct record *r = page->record;
	char text[TEXT_BYTES];

	fputs("<p>", page->out);
	mt_text_html_most(page->out, r->machine_name, 100);
	fprintf(page->out, ": %s ", mt_text_count(text, r->devices));
	mt_text_html_most(page->out, mt_json_get_string(r->machine, "device", ""), 24);
	fprintf(page->out, " device%s", r->devices == 1 ? "" : "s");
	fprintf(page->out, ", %s TFLOP/s each at peak", mt_text_number(text, r->peak_tflops));
	fprintf(page->out, ", %s of memory a rank.", mt_text_bytes(text, mt_record_number(r->machine, "rank_memory_bytes")));
	fputs(" Libraries: ", page->out);
	mt_text_html_most(page->out, text_of(r->machine, "libraries"), 300);
	fputs(". Fingerprint: <code>", page->out);
	mt_text_html_most(page->out, text_of(r->machine, "fingerprint"), 64);
	fputs("</code></p>\n", page->out);
	put_hosts(page);
	put_rates(page);
	put_classes(page);
	return put_curves(page);
}

enum mt_status mt_page_phases(const struct page *page)
{
	const json_t *phases = mt_record_array(page->record->json, "phases"), *phase;
	double total = mt_record_number(page->record->json, "seconds");
	char text[TEXT_BYTES];
	size_t i;

	fprintf(page->out, "<p>%s in all.</p>\n", mt_text_seconds(text, total));
	if (!json_array_size(phases))
		return MT_OK;
	mt_page_table_start(page, "Phase|#Time|#Share", false);
	json_array_foreach((json_t *)phases, i, phase)
	{
		double seconds = mt_record_number(phase, "seconds");
		if (!json_is_object(phase))
			continue;
		fputs("<tr>", page->out);
		mt_page_cell(page, text_of(phase, "name"));
		mt_page_number(page, mt_text_seconds(text, seconds));
		mt_page_number(page, mt_text_percent(text, seconds / total, ""));
		fputs("</tr>\n", page->out);
	}
	mt_page_table_end(page, false);
	return MT_OK;
}

static void term(const struct page *page, const char *name, const char *text)
{
	fprintf(page->out, "<dt>%s</dt><dd>%s</dd>\n", name, text);
}

enum mt_status mt_page_provenance(const struct page *page)
{
	const struct record *r = page->record;

	fputs("<dl>\n", page->out);
	term(page, "Predicted step time",
	     "The engine itself, run with kernels and collectives that only advance a clock (dry), or a closed form over the "
	     "profiled "
	     "costs of its blocks (card); which one is in the table of layouts. Kernel times were profiled on this machine for the "
	     "exact "
	     "shape where possible, else scaled from the nearest one; collectives come from the curves above.");
	term(page, "90% interval of a prediction",
	     "From the machine's jitter, how much the same steps of profile differed minutes apart, the share of kernel time that "
	     "was never measured for its shape, and the error the model "
	     "itself "
	     "is known to have; a measurement is expected to lie inside nine times of ten.");
	term(page, "Measured step time",
	     "The median over the steps of a real training run of that layout, with a 90% interval of the median.");
	term(page, "Predicted memory",
	     "Bytes that the engine's allocator counted in the dry run, by arena; resident adds the process and its libraries.");
	term(page, "Measured memory", "The allocator's peak, and the peak resident size of the process as the system reports it.");
	term(page, "Model FLOPs",
	     "Forward once and backward twice over matrix products and attention of real tokens; causal attention half; no "
	     "recompute.");
	fputs("<dt>Peak</dt><dd>", page->out);
	mt_text_html_most(page->out, text_of(r->machine, "peak_source"), 200);
	fputs("; the dense peak of the data type.</dd>\n<dt>This report</dt><dd>megatune ", page->out);
	mt_text_html_most(page->out, text_of(r->json, "megatune"), 40);
	fputs(", command ", page->out);
	mt_text_html_most(page->out, r->command, 40);
	fputs(", ", page->out);
	mt_text_html_most(page->out, text_of(r->json, "created"), 40);
	fputs(". Made from result.json alone: <code>megatune report result.json</code> makes it again.</dd>\n</dl>\n", page->out);
	return MT_OK;
}
