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

// unknownHint tells a key that is known instead of key, which stands below path, and
// its own path; "" where there is none.
func (d *decoder) unknownHint(path, key string, known []string) (hint, meant string) {
	all := "known here: " + strings.Join(known, ", ")
	if strings.ContainsFunc(key, func(r rune) bool { return r > unicode.MaxASCII && !unicode.IsLetter(r) }) {
		return "a character in it only looks like a blank, or like nothing: type the line anew", ""
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
		return "write it in sections, as " + outer + ": {" + strings.ReplaceAll(inner, ".", ": {") + ": …" + strings.Repeat("}", strings.Count(key, ".")), join(path, key)
	}
	switch sections := d.sectionsWith(key, path); len(sections) {
	case 0:
		return all, ""
	case 1:
		return fmt.Sprintf("%s goes below %s:, indented", key, sections[0]), join(sections[0], key)
	default:
		return fmt.Sprintf("%s goes below %s:, indented", key, strings.Join(sections, ": or ")), ""
	}
}

// sectionsWith returns the sections in which key is known: those below path, if there are any.
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

// scalarHint tells how to write one value, for v, where n stands.
func scalarHint(n *yaml.Node, v reflect.Value) string {
	switch {
	case isNull(n):
		return "write a value, or remove the key for the default"
	case isText(v):
		_, remedy := withRemedy(v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(nil))
		return remedy
	case isBraced(n):
		return `text with a brace needs quotes: "{name}"`
	}
	return "write one value"
}

// isAddress finds the strings that are addresses: a number there is for their own check.
var isAddress = regexp.MustCompile(`^(?:admin\.listen|etcd\.endpoints.*|graphite\.events)$`)

// syntaxHint names what is usually wrong where line, of what the parser complains, is no YAML.
func syntaxHint(line, what string) string {
	switch {
	case strings.HasPrefix(strings.TrimLeft(line, " "), "\t"):
		return "YAML is indented by blanks: replace the tabs"
	case strings.HasPrefix(line, "%"):
		return "take the line out"
	case strings.Contains(what, "<document start>"):
		return "the file is YAML: a key, a colon, a blank and its value in each line, as etcd: {endpoints: [http://127.0.0.1:2379]}"
	}
	return `look here and in the line before: a bracket, brace or quote is not closed, a colon or a dash lacks the blank behind it, a key is not indented like its neighbours, or a value needs quotes (it has ": " or " #" in it, or begins with one of [ ] { } @ % & * ! | > ' ")`
}
