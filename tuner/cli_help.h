/* cli_help: what a command's options say of themselves, to a reader, to man and to the shell. All of it comes from the option
 * tables.
 *
 *   --help          text of 80 columns
 *   --help=man      a section of the manual page, in the macros of man(7)
 *   --help=words    one line an option, "--name" and after a tab the words that it may be; "MODEL" and the models by name. For
 *                   tuner/completion.bash */
#ifndef MT_TUNER_CLI_HELP_H
#define MT_TUNER_CLI_HELP_H

#include "tuner/cli.h"

#include <stdio.h>

enum mt_help { MT_HELP_NONE, MT_HELP_TEXT, MT_HELP_MAN, MT_HELP_WORDS };

/* Which kind of help an argument asks for; MT_HELP_NONE: it is something else. */
enum mt_help mt_help_asked(const char *word);
/* The help of one command, to stdout. */
void mt_help_print(const struct mt_cli *cli, enum mt_help kind);
/* Text for man: no letter of it is taken for a request. */
void mt_help_man_text(const char *text, FILE *file);
/* The options of a table as list items of man(7). */
void mt_help_man_options(const struct mt_option_table *table, FILE *file);

#endif
