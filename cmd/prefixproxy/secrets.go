package main

import (
	"reflect"
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
	unread bool // it is that of a key which is not known
}

// hide notes the values of n that may be secrets; key is that of n. All are, where the
// key is not known.
func (d *decoder) hide(key string, n *yaml.Node, unread bool) {
	switch n.Kind {
	case yaml.ScalarNode, yaml.AliasNode:
		if n.Anchor != "" && unread || n.Value != "" && (unread || conf.MayBeSecret(key, n.Value)) {
			d.secrets = append(d.secrets, secret{placeOf(n), n.Value, unread})
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
func (d *decoder) hideUnknown(lines []string, line int, top []string) {
	if line < 1 || line > len(lines) {
		return
	}
	text := lines[line-1]
	for _, m := range keyInLine.FindAllStringSubmatchIndex(text, -1) {
		key, value := text[m[2]:m[3]], text[m[1]:]
		if _, known := d.sections[key]; !known && !slices.Contains(top, key) && !slices.Contains(keys(reflect.ValueOf(numbered{})), key) && value != "" {
			at := place{line, utf8.RuneCountInString(text[:m[1]]) + 1}
			d.secrets = append(d.secrets, secret{at, value, true}, secret{value: value}) // hints are made of it
			return
		}
	}
}

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

// parts returns the words of a secret, less those of the host that it is for.
func (s secret) parts() []string {
	value := s.value
	if i := strings.LastIndex(value, "@"); i >= 0 {
		value = value[:i]
	}
	return strings.FieldsFunc(value, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}

// harmless are the words of a secret that may be told.
var harmless = map[string]bool{"http": true, "https": true, "unix": true, "unixgram": true, "password": true, "username": true, "user": true, "root": true, "localhost": true}
