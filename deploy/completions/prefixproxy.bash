# Completions for bash: /usr/share/bash-completion/completions/prefixproxy
_prefixproxy() {
	mapfile -t COMPREPLY < <("$1" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f 1)
}
complete -o bashdefault -o default -F _prefixproxy prefixproxy
