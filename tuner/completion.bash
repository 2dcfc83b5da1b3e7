# shellcheck shell=bash
# Completion of megatune's command line in bash: commands, options, their values, models, machines and stacks. All words come from the
# program that stands on the line (megatune COMMAND --help=words). Installed as share/bash-completion/completions/megatune.
_megatune() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} lines words
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		words=$("$1" --help=words 2>/dev/null)
	else
		lines=$("$1" "${COMP_WORDS[1]}" --help=words 2>/dev/null) || return 0
		case $word in
		-*) words=$(cut -f1 <<<"$lines" | grep '^-') ;;
		*)
			[[ $before == --* ]] && words=$(awk -F '\t' -v name="$before" '$1 == name { print $2 }' <<<"$lines")
			[[ $before == --* ]] || words=$(awk -F '\t' '$1 !~ /^-/ { print $2 ? $2 : $1 }' <<<"$lines") ;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
# What the program does not name may be a file.
complete -o default -F _megatune megatune
