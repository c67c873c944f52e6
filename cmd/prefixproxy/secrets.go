package main

import (
	"iter"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// A secret is what may be one, and is not to be shown.
type secret struct {
	at     place // zero: it is not in the file
	value  string
	unread bool // nothing is said of it, or of what is behind it in its line
	alone  bool // but what is behind it may be shown
}

// hide notes the values of n that may be secrets; key is that of n. All are, where the
// key is not known.
func (d *decoder) hide(key string, n *yaml.Node, unread bool) {
	switch n.Kind {
	case yaml.ScalarNode, yaml.AliasNode:
		if n.Anchor != "" && unread || n.Value != "" && (unread || conf.MayBeSecret(key, n.Value)) {
			d.secrets = append(d.secrets, secret{at: placeOf(n), value: n.Value, unread: unread})
		}
	case yaml.MappingNode:
		for entry := range slices.Chunk(n.Content, 2) {
			d.hide(key, entry[0], unread)
			d.hide(entry[0].Value, entry[1], unread)
		}
	default:
		for _, element := range n.Content {
			d.hide(key, element, unread)
		}
	}
}

// keyInLine finds what looks like a key, in a line of a file that cannot be parsed.
var keyInLine = regexp.MustCompile(`([\w.-]+)["']?\s*:\s+`)

// hideUnknown notes what stands behind a key that is not known, in one of lines.
func (d *decoder) hideUnknown(lines []string, line int) {
	if line < 1 || line > len(lines) {
		return
	}
	text := lines[line-1]
	for _, m := range keyInLine.FindAllStringSubmatchIndex(text, -1) {
		key, value := text[m[2]:m[3]], text[m[1]:]
		if !d.isKey(key) && value != "" {
			at := place{line, utf8.RuneCountInString(text[:m[1]]) + 1}
			d.secrets = append(d.secrets, secret{at: at, value: value, unread: true}, secret{value: value}) // hints are made of it
			return
		}
	}
}

// misplaced notes what stands where it can't be meant, as far as it may be a password that
// was typed into the wrong line. It returns what hides that in what is said of it.
func (d *decoder) misplaced(n *yaml.Node) *strings.Replacer {
	var all []secret
	for leaf := range leaves(n) {
		if len(all) == maxList {
			d.secrets = append(d.secrets, secret{at: placeOf(leaf), unread: true})
			break
		}
		if !d.isHarmless(leaf.Value) {
			all = append(all, secret{at: placeOf(leaf), value: leaf.Value})
		}
	}
	return d.conceal(all)
}

// leaves yields the values, and the keys, in n.
func leaves(n *yaml.Node) iter.Seq[*yaml.Node] {
	return func(yield func(*yaml.Node) bool) { eachLeaf(n, yield) }
}

func eachLeaf(n *yaml.Node, yield func(*yaml.Node) bool) bool {
	if n.Kind == yaml.ScalarNode {
		return yield(n)
	}
	return !slices.ContainsFunc(n.Content, func(element *yaml.Node) bool { return !eachLeaf(element, yield) })
}

// wordInLine finds the words of a line that cannot be parsed.
var wordInLine = regexp.MustCompile(`(?:[^\s,\[\]{}"']|\$?\{\w*\})+`)

// misplacedWords is misplaced for a file that cannot be parsed: of a line of it, and of
// those before it, of which hints are made.
func (d *decoder) misplacedWords(lines []string, line int) *strings.Replacer {
	var all []secret
	for i := max(line-4, 0); i < min(line, len(lines)); i++ {
		text, _, _ := strings.Cut(lines[i], " #")
		if len(text) > maxLine {
			d.secrets = append(d.secrets, secret{at: place{i + 1, 1}, unread: true})
			continue
		}
		for _, at := range wordInLine.FindAllStringIndex(text, -1) {
			key, value, isKey := strings.Cut(text[at[0]:at[1]], ":")
			isFirst := value == "" && strings.Trim(text[:at[0]], " \t-") == ""
			if isKey && (isFirst || d.isKey(key)) {
				key += ":"
			} else {
				key, value = "", text[at[0]:at[1]]
			}
			if !d.isHarmless(value) {
				column := utf8.RuneCountInString(text[:at[0]]+key) + 1
				all = append(all, secret{at: place{i + 1, column}, value: value})
			}
		}
	}
	return d.conceal(all)
}

// maxLine bounds a line that is looked at word by word, in bytes.
const maxLine = 2000

// conceal hides secrets in the lines that they are in, and returns what hides them elsewhere.
func (d *decoder) conceal(all []secret) *strings.Replacer {
	for _, s := range all {
		s.unread, s.alone = true, true
		d.secrets = append(d.secrets, s)
	}
	return hider(all)
}

// isKey says whether a word is a key somewhere.
func (d *decoder) isKey(word string) bool {
	_, below := d.sections[word]
	return below || slices.Contains(d.top, word) || word == "prefix" || word == "count"
}

// isHarmless says whether a value that can't be meant may be told: it is made of numbers,
// units, addresses, variables, and words that people write where they want one of ours.
func (d *decoder) isHarmless(value string) bool {
	value, query, _ := strings.Cut(someVariable.ReplaceAllString(value, ""), "?")
	for _, option := range strings.FieldsFunc(query, isBetweenOptions) {
		if !d.isHarmless(option) {
			return false
		}
	}
	if someNumber.MatchString(value) {
		return true
	}
	return !slices.ContainsFunc(strings.FieldsFunc(value, isBetweenWords), func(word string) bool {
		return len(word) > 3 && !d.isWord(word) && !(someAddress.MatchString(word) && conf.Mask(word) == word)
	})
}

func isBetweenWords(r rune) bool   { return unicode.IsSpace(r) || r == ',' }
func isBetweenOptions(r rune) bool { return r == '?' || r == '&' || r == '=' }

// isWord says whether a word is one of ours, or nearly.
func (d *decoder) isWord(word string) bool {
	word = strings.ToLower(strings.TrimRight(word, ":"))
	return d.isKey(word) || someNumber.MatchString(word) || slices.ContainsFunc(words, func(w string) bool {
		return w == word || len(word) < maxKey && distance(w, word) <= len(w)/4
	}) || slices.ContainsFunc(slices.Collect(maps.Values(alsoCalled)), func(keys []string) bool { return slices.Contains(keys, word) })
}

// words are those of our values, and those that people write for them.
var words = strings.Fields(`true false none null never always forever unlimited infinite infinity auto default enabled
	disabled enable disable release keep forward prefix drop plain legacy etcd graphite statsd carbon stdout localhost hostname
	mountains mode group health`)

// What may be told of a value.
var (
	someVariable = regexp.MustCompile(`[a-z.]*\{name\}[a-z.]*|\$\{\w*\}|\$\{?[A-Z_][A-Z0-9_-]*\}?`)
	someNumber   = regexp.MustCompile(`(?i)^(?:[-+]?\d[\d.,_]{0,15}(?:e[-+]?\d{1,3})?\s*(?:[nuµm]?s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?|[kmgt]i?b?|b|bytes?|x[0-9a-f]{1,8}|%)?\s*){1,4}$`)
	someAddress  = regexp.MustCompile(`(?i)^(?:(?:[a-z]+:|~)?/[\w.:\[\]*/%-]*|[a-z0-9.-]+:\d+/?|(?:\*|[\d.]+|\[?[0-9a-f]*:[0-9a-f:.]*\]?|[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|net|org|io|dev|local|internal|lan|example|test|de|eu|uk|us|fr))(?::\d+)?/?)$`)
)

// hider returns what puts asterisks in the place of secrets, and of their parts: a hint
// may be made of them.
func hider(secrets []secret) *strings.Replacer {
	var pairs []string
	for _, s := range secrets {
		if s.unread {
			continue // nothing is said of it
		}
		quoted := strconv.Quote(s.value)
		for _, form := range append([]string{s.value, quoted[1 : len(quoted)-1]}, s.parts()...) {
			if len(form) >= 4 && !harmless[strings.ToLower(form)] { // a short one would be found everywhere
				pairs = append(pairs, form, conf.Stars(form))
			}
		}
	}
	return strings.NewReplacer(pairs...)
}

// length returns how much of text, which begins where the secret does, it takes: all, if it
// is written in another way than it is meant.
func (s secret) length(text []rune) int {
	quote := 0
	if text[0] == '"' || text[0] == '\'' {
		quote = 1
	}
	if rest, ok := strings.CutPrefix(string(text[quote:]), s.value); ok {
		return len(text) - utf8.RuneCountInString(rest)
	}
	return len(text)
}

// parts returns the words of a secret, less those of the host that it is for.
func (s secret) parts() []string {
	value := someVariable.ReplaceAllString(s.value, " ")
	if i := strings.LastIndex(value, "@"); i >= 0 {
		value = value[:i]
	}
	return strings.FieldsFunc(value, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}

// harmless are the words of a secret that may be told.
var harmless = map[string]bool{"http": true, "https": true, "unix": true, "unixgram": true, "password": true, "username": true, "user": true, "root": true, "localhost": true}
