# Completions for fish: /usr/share/fish/vendor_completions.d/prefixproxy.fish
function __prefixproxy
	set -l found (prefixproxy complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)
	set -q found[1]; and printf '%s\n' $found; or __fish_complete_path (commandline -ct)
end
complete -c prefixproxy -f -a '(__prefixproxy)'
