#compdef prefixproxy
# Completions for zsh: _prefixproxy in a directory of $fpath
local -a found
found=(${(f)"$($words[1] complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
if (($#found)); then
	found=(${${found//:/\\:}/$'\t'/:})
	_describe prefixproxy found
else
	_files
fi
