package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// MaxSize bounds a configuration file, in bytes, so that reading it can't cost much memory. A list of
// 3,000 names fits.
const MaxSize = 256 << 10

// A place is a position in a file: line and column, from 1, in characters. The zero place is that of
// a value that the file does not contain.
type place struct{ line, column int }

// placeOf returns where n begins.
func placeOf(n *yaml.Node) place { return place{n.Line, n.Column} }

// parse returns the contents of a YAML file (nil if it has none), or what is wrong with it.
func parse(text []byte) (*yaml.Node, *problem) {
	fail := func(at place, hint, text string) (*yaml.Node, *problem) {
		return nil, &problem{conf.Problem{Text: text, Hint: hint}, at}
	}
	if len(text) > MaxSize {
		return fail(place{}, "a long list of names is shorter as {prefix: web-, count: 200}", fmt.Sprintf("the file is larger than %v", conf.Bytes(MaxSize)))
	}
	if at, what := unreadableByte(text); what != "" {
		return fail(at, "save the file as UTF-8 text", "the file "+what)
	}
	var first, second yaml.Node
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err == nil {
		err = loader.Load(&first)
	}
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err == nil {
		err = loader.Load(&second)
	}
	bad, hasPlace := errors.AsType[*yaml.LoadError](err)
	switch {
	case errors.Is(err, io.EOF):
		return first.Content[0], nil
	case err == nil:
		return fail(placeOf(&second), "keep one document, without directives", "the file contains more than one YAML document")
	case !hasPlace:
		return fail(place{}, "", err.Error())
	}
	at, lines := syntaxPlace(text, bad.Mark)
	what, hint := bad.Message, syntaxHint(lines, bad.Message)
	if strings.Contains(what, "anchor") { // the message quotes it
		what, hint = noAnchors, valueItself
	}
	if begins := bad.ContextMark.Line; 0 < begins && begins < at.line {
		what += fmt.Sprintf(" (%s, from line %d on)", bad.ContextMsg, begins)
	}
	return fail(at, hint, what)
}

const (
	noAnchors   = "anchors, aliases and tags are not supported"
	valueItself = "write the value itself"
)

// lineEnd matches what ends a line in YAML.
var lineEnd = regexp.MustCompile("\r\n|[\r\n\u0085\u2028\u2029]")

// unreadableByte returns the place of the first byte that no YAML file may contain: it is not UTF-8,
// a control character, or a Unicode noncharacter.
func unreadableByte(text []byte) (at place, what string) {
	for i, line := range lineEnd.Split(string(text), -1) {
		for column := 1; line != ""; column++ {
			r, size := utf8.DecodeRuneInString(line)
			switch {
			case r == utf8.RuneError && size == 1:
				return place{i + 1, column}, "is not UTF-8"
			case unicode.IsControl(r) && r != '\t', r == '\ufffe', r == '\uffff':
				return place{i + 1, column}, "contains a control character"
			case r == '\ufeff' && (i > 0 || column > 1):
				return place{i + 1, column}, "contains a byte order mark after its start"
			}
			line = line[size:]
		}
	}
	return place{}, ""
}

// syntaxPlace returns where the parser found a mistake, and the lines up to there: all, if the file
// ended too early; none, if the parser does not say.
func syntaxPlace(text []byte, mark yaml.Mark) (at place, lines []string) {
	if mark.Line == 0 {
		return place{}, nil
	}
	lines = lineEnd.Split(strings.TrimPrefix(string(text), "\ufeff"), -1)
	if last := lines[len(lines)-1]; mark.Line > len(lines) {
		return place{len(lines), utf8.RuneCountInString(last) + 1}, lines
	}
	return place{mark.Line, mark.Column}, lines[:mark.Line]
}

// isPlain reports whether a scalar is written without quotes.
func isPlain(n *yaml.Node) bool {
	return n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
}

// isMissing reports whether n is an empty value.
func isMissing(n *yaml.Node) bool { return isNull(n) && n.Value == "" }

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// isWord reports whether a scalar is a number or a boolean in YAML.
func isWord(n *yaml.Node) bool {
	switch n.ShortTag() {
	case "!!int", "!!float", "!!bool":
		return true
	}
	return false
}

// isBraced reports whether n is a section in braces, rather than a pair in a list: [stdout:].
func isBraced(n *yaml.Node) bool {
	return n.Kind == yaml.MappingNode && n.Style&yaml.FlowStyle != 0 && (len(n.Content) == 0 || placeOf(n.Content[0]) != placeOf(n))
}

// endsInColon returns the text of a value that ends in a colon, like stdout:, which to YAML is a key
// without a value.
func endsInColon(n *yaml.Node) (text string, ok bool) {
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 || isBraced(n) || n.Content[0].Kind != yaml.ScalarNode {
		return "", false
	}
	return n.Content[0].Value + ":", isMissing(n.Content[1])
}
