package config

import (
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/prefixproxy/prefixproxy/internal/conf"
	"go.yaml.in/yaml/v4"
)

// unknownHint returns a hint to what is probably meant by the unknown key below path, and the path
// of that; "" if it can't tell.
func (d *decoder) unknownHint(path, key string, known []string) (hint, meant string) {
	all := "valid here: " + strings.Join(known, ", ")
	if strings.ContainsFunc(key, isOdd) {
		return retype, ""
	}
	lower := strings.ReplaceAll(strings.ToLower(key), "-", "_")
	closest, far := conf.Closest(lower, known)
	if i := slices.IndexFunc(known, func(k string) bool { return len(lower) > 2 && strings.HasPrefix(k, lower) }); i >= 0 {
		closest = known[i]
	}
	if strings.HasPrefix(closest, lower) || far <= max(1, len(closest)/3) {
		return "did you mean " + closest + "?", join(path, closest)
	}
	if outer, inner, dotted := strings.Cut(key, "."); dotted && slices.ContainsFunc(d.paths, func(known string) bool { return within(known, join(path, key)) }) {
		return "write it as nested sections: " + outer + ": {" + strings.ReplaceAll(inner, ".", ": {") + ": …" + strings.Repeat("}", strings.Count(key, ".")), join(path, key)
	}
	switch sections := d.sectionsWith(key, path); len(sections) {
	case 0:
		return all, ""
	case 1:
		return fmt.Sprintf("%s belongs below %s:, indented", key, sections[0]), join(sections[0], key)
	default:
		return fmt.Sprintf("%s belongs below %s:, indented", key, strings.Join(sections, ": or ")), ""
	}
}

// retype is the remedy for characters that a web page or a word processor has put in.
const retype = "a character there only looks like a space, a quote or a dash, or is invisible: retype that line and the one before"

// isOdd reports whether r is such a character.
func isOdd(r rune) bool { return r > unicode.MaxASCII && !unicode.IsLetter(r) }

// sectionsWith returns the sections that have key: those below path, if there are any.
func (d *decoder) sectionsWith(key, path string) (all []string) {
	for _, known := range d.paths {
		if i := strings.Index("."+known+".", "."+key+"."); i > 0 && !slices.Contains(all, known[:i-1]) {
			all = append(all, known[:i-1])
		}
	}
	isElsewhere := func(section string) bool { return !within(section, path) }
	if below := slices.DeleteFunc(slices.Clone(all), isElsewhere); len(below) > 0 {
		return below
	}
	return all
}

// scalarHint returns how to write a value for v in place of n.
func scalarHint(n *yaml.Node, v reflect.Value) string {
	switch {
	case isNull(n):
		return "write a value, or remove the key to get the default"
	case isText(v):
		_, remedy := withRemedy(v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(nil))
		return remedy
	case isBraced(n):
		return `text with a brace needs quotes: "{name}"`
	}
	return "write a single value"
}

// isAddress matches the keys of addresses that are strings: their own check refuses a number.
var isAddress = regexp.MustCompile(`^(?:admin\.listen|etcd\.endpoints.*|graphite\.events)$`)

// syntaxHint returns what is usually wrong if the parser complains about the last of the lines.
func syntaxHint(lines []string, what string) string {
	line, odd := "", false
	for _, line = range lines[max(len(lines)-2, 0):] {
		value, _, _ := strings.Cut(line, "#")
		odd = odd || strings.ContainsFunc(value, isOdd)
	}
	switch {
	case strings.HasPrefix(strings.TrimLeft(line, " "), "\t"):
		return "YAML is indented with spaces: replace the tabs"
	case odd:
		return retype
	case strings.HasPrefix(line, "%"):
		return "remove the line"
	case strings.Contains(what, "<document start>"):
		return "the file must be YAML, with a key, a colon, a space and a value on each line, like etcd: {endpoints: [http://127.0.0.1:2379]}"
	}
	return `check this line and the one before: a bracket, brace or quote is not closed, a colon or dash has no space after it, a key is not indented like its neighbours, or a value needs quotes (it contains ": " or " #", or begins with one of [ ] { } @ % & * ! | > ' ")`
}
