package main

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// What is said of a file with mistakes tells no secret. An excerpt shows the words of the file
// that were read as they were meant, and of the others those that can be none; a message hides
// the values that it is about, likewise. What looks like a secret is never told.

// wordInLine finds the words of a line.
var wordInLine = regexp.MustCompile(`(?:[^\s,\[\]{}"']|\$?\{\w*\})+`)

// shows says whether an excerpt may hold a word, in which conf.Mask has put asterisks.
func (d *decoder) shows(word string) bool {
	word, isKey := strings.CutSuffix(word, ":")
	bare := asterisks.ReplaceAllString(word, "")
	return isKey && (d.told[word] || d.isKey(word)) || !d.private[bare] && (d.told[word] || d.isHarmless(bare))
}

var asterisks = regexp.MustCompile(`\*\*+@?`)

// note adds the words of text to a set.
func note(words map[string]bool, text string) {
	for _, word := range wordInLine.FindAllString(text, -1) {
		words[strings.TrimRight(word, ":")] = true
	}
}

// hide notes the values of n that may be secrets; key is that of n. All are, where the
// key is not known: nothing is said of them.
func (d *decoder) hide(key string, n *yaml.Node, unread bool) {
	switch n.Kind {
	case yaml.ScalarNode, yaml.AliasNode:
		if unread {
			note(d.private, n.Value)
		} else if conf.MayBeSecret(key, n.Value) {
			note(d.private, n.Value)
			d.hidden = append(d.hidden, n.Value)
		}
	case yaml.MappingNode:
		for entry := range slices.Chunk(n.Content, 2) {
			if !d.isKey(entry[0].Value) {
				d.hide(key, entry[0], unread)
			}
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

// hideUnknown notes what stands behind a key that is not known, in such a line.
func (d *decoder) hideUnknown(line string) {
	for _, m := range keyInLine.FindAllStringSubmatchIndex(line, -1) {
		key, value := line[m[2]:m[3]], line[m[1]:]
		if d.isKey(key) {
			continue
		}
		if strings.Trim(line[:m[2]], " \t-") == "" {
			note(d.told, key)
		}
		note(d.private, value)
		d.hidden = append(d.hidden, value) // hints are made of it
		return
	}
}

// conceal returns what hides the values in n, which can't be meant where they stand: one may
// be a password that was typed into the wrong line.
func (d *decoder) conceal(n *yaml.Node) *strings.Replacer {
	all := slices.DeleteFunc(leaves(n, nil), d.isHarmless)
	for _, value := range all {
		note(d.private, value)
	}
	return hider(all[:min(len(all), maxList)])
}

// concealWords is conceal for lines of a file that cannot be parsed.
func (d *decoder) concealWords(lines string) *strings.Replacer {
	return hider(slices.DeleteFunc(wordInLine.FindAllString(lines, -1), d.shows))
}

// leaves appends the values, and the keys, in n.
func leaves(n *yaml.Node, dst []string) []string {
	if n.Kind == yaml.ScalarNode {
		return append(dst, n.Value)
	}
	for _, element := range n.Content {
		dst = leaves(element, dst)
	}
	return dst
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
	someAddress  = regexp.MustCompile(`(?i)^(?:(?:[a-z]+:|~)?/[\w.:\[\]*/%-]*|(?:(?:udp|tcp|tls|https?)[46]?[:;]?/{0,2})?(?:[a-z0-9.-]+:(?:\d+|port|statsd|carbon|graphite)/?|(?:\*|[\d.]+|\[?[0-9a-f]*:[0-9a-f:.]*\]?|[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|net|org|io|dev|local|internal|lan|example|test|de|eu|uk|us|fr))(?::\d+)?/?))$`)
)

// hider returns what puts asterisks in the place of secrets, and of their parts: a hint
// may be made of them.
func hider(secrets []string) *strings.Replacer {
	var pairs []string
	for _, s := range secrets {
		quoted := strconv.Quote(s)
		for _, form := range append([]string{s, quoted[1 : len(quoted)-1]}, partsOf(s)...) {
			if len(form) >= 4 && !slices.Contains(harmless, strings.ToLower(form)) { // a short one would be found everywhere
				pairs = append(pairs, form, conf.Stars(form))
			}
		}
	}
	return strings.NewReplacer(pairs...)
}

// partsOf returns the words of a secret, less those of the host that it is for.
func partsOf(secret string) []string {
	value := someVariable.ReplaceAllString(secret, " ")
	if i := strings.LastIndex(value, "@"); i >= 0 {
		value = value[:i]
	}
	return strings.FieldsFunc(value, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}

// harmless are the words of a secret that may be told: hints hold them, too.
var harmless = strings.Fields("http https unix unixgram password username user root localhost group mode statsd carbon 8125 2003 2379 8127")
