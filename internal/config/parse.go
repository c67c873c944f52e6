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

// MaxSize bounds a configuration file, in bytes: what is read of a file that
// somebody else wrote must not cost much memory. A list of 3,000 names fits.
const MaxSize = 256 << 10

// A place is a position in a file: line and column, from 1, in characters. The
// zero place stands for a value that the file does not hold.
type place struct{ line, column int }

// placeOf returns where n begins.
func placeOf(n *yaml.Node) place { return place{n.Line, n.Column} }

// parse returns what a YAML file holds, nil where that is nothing; or what is wrong with it.
func parse(text []byte) (*yaml.Node, *problem) {
	fail := func(at place, hint, text string) (*yaml.Node, *problem) {
		return nil, &problem{conf.Problem{Text: text, Hint: hint}, at}
	}
	if len(text) > MaxSize {
		return fail(place{}, "a long list of names is shorter as {prefix: web-, count: 200}", fmt.Sprintf("the file has more than %v", conf.Bytes(MaxSize)))
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
		return fail(placeOf(&second), "keep one document, without directives", "the file holds more than one YAML document")
	case !hasPlace:
		return fail(place{}, "", err.Error())
	}
	at, line := syntaxPlace(text, bad.Mark)
	what, hint := bad.Message, syntaxHint(line, bad.Message)
	if strings.Contains(what, "anchor") { // which it names
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

// lineEnd is what YAML takes for one.
var lineEnd = regexp.MustCompile("\r\n|[\r\n\u0085\u2028\u2029]")

// unreadableByte returns the place of the first byte that no YAML file may hold:
// what is not UTF-8, a control character, or what Unicode says is no character.
func unreadableByte(text []byte) (at place, what string) {
	for i, line := range lineEnd.Split(string(text), -1) {
		for column := 1; line != ""; column++ {
			r, size := utf8.DecodeRuneInString(line)
			switch {
			case r == utf8.RuneError && size == 1:
				return place{i + 1, column}, "is not UTF-8"
			case unicode.IsControl(r) && r != '\t', r == '\ufffe', r == '\uffff':
				return place{i + 1, column}, "holds a control character"
			case r == '\ufeff' && (i > 0 || column > 1):
				return place{i + 1, column}, "holds a byte order mark behind its start"
			}
			line = line[size:]
		}
	}
	return place{}, ""
}

// syntaxPlace returns where a mistake was found, and the line: the end of the file, where that
// came too early; nowhere, where the parser does not say.
func syntaxPlace(text []byte, mark yaml.Mark) (at place, line string) {
	if mark.Line == 0 {
		return place{}, ""
	}
	lines := lineEnd.Split(strings.TrimPrefix(string(text), "\ufeff"), -1)
	if last := lines[len(lines)-1]; mark.Line > len(lines) {
		return place{len(lines), utf8.RuneCountInString(last) + 1}, last
	}
	return place{mark.Line, mark.Column}, lines[mark.Line-1]
}

// isPlain says whether a scalar is written without quotes, in one line or more.
func isPlain(n *yaml.Node) bool {
	return n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
}

// isMissing says whether nothing is written where n would be.
func isMissing(n *yaml.Node) bool { return isNull(n) && n.Value == "" }

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// isWord says whether a scalar is what YAML knows by itself: a number or a truth.
func isWord(n *yaml.Node) bool {
	switch n.ShortTag() {
	case "!!int", "!!float", "!!bool":
		return true
	}
	return false
}

// isBraced says whether n is a section in braces, and not a pair in a list in
// brackets: [stdout:].
func isBraced(n *yaml.Node) bool {
	return n.Kind == yaml.MappingNode && n.Style&yaml.FlowStyle != 0 && (len(n.Content) == 0 || placeOf(n.Content[0]) != placeOf(n))
}

// endsInColon returns the text of a value that ends in a colon, like stdout:,
// which YAML takes for a key without a value.
func endsInColon(n *yaml.Node) (text string, ok bool) {
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 || isBraced(n) || n.Content[0].Kind != yaml.ScalarNode {
		return "", false
	}
	return n.Content[0].Value + ":", isMissing(n.Content[1])
}
