package main

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// normalize returns text without a byte order mark, and with "\n" as the only
// line break: with others the lexer loses count of the lines.
func normalize(text []byte) []byte {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	return bytes.ReplaceAll(text, []byte("\r"), []byte("\n"))
}

// parse returns the documents of a YAML file.
func parse(text []byte) ([]*ast.DocumentNode, error) {
	tokens := joinColons(lexer.Tokenize(string(text)))
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // the decoder reports duplicates, all of them
	if err != nil {
		return nil, err
	}
	return file.Docs, nil
}

// joinColons puts together again what the lexer has cut at a colon in a list
// within braces, like {to: [udp://x:1, stdout:]}. In YAML a colon ends a key
// only where white space follows; and our lists hold no keys.
//
// https://github.com/goccy/go-yaml/issues/832
func joinColons(tokens token.Tokens) token.Tokens {
	var joined token.Tokens
	var open []token.Type // the brackets and braces around
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			open = append(open, t.Type)
		case token.SequenceEndType, token.MappingEndType:
			open = open[:max(len(open)-1, 0)]
		case token.MappingValueType:
			inList := len(open) > 0 && open[len(open)-1] == token.SequenceStartType
			if !inList || len(joined) == 0 || i+1 == len(tokens) || joined[len(joined)-1].Type != token.StringType {
				break
			}
			before, after := joined[len(joined)-1], tokens[i+1]
			switch {
			case after.Type == token.CollectEntryType || after.Type == token.SequenceEndType:
				before.Value, before.Origin = before.Value+":", before.Origin+":"
				continue
			case isPlain(after) && strings.HasPrefix(after.Origin, after.Value): // no white space between
				before.Value, before.Origin = before.Value+":"+after.Value, before.Origin+":"+after.Origin
				i++
				continue
			}
		}
		joined.Add(t)
	}
	return joined
}

// isPlain says whether t is a scalar without quotes.
func isPlain(t *token.Token) bool {
	return t.Type == token.StringType || t.Type == token.IntegerType || t.Type == token.FloatType
}

// A place is a position in a file: line and column, from 1, in characters. The
// zero place stands for a value that the file does not hold.
type place struct{ line, column int }

// placeOf returns where n begins.
func placeOf(n ast.Node) place {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return placeOf(m.Values[0].Key) // the token of a mapping is its first colon
	}
	return placeOfToken(n.GetToken())
}

func placeOfToken(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{}
	}
	return place{t.Position.Line, t.Position.Column}
}

// invalidUTF8 returns the place of the first byte that is not UTF-8.
func invalidUTF8(text []byte) (at place, found bool) {
	if utf8.Valid(text) {
		return place{}, false
	}
	at = place{1, 1}
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1:
			return at, true
		case r == '\n':
			at = place{at.line + 1, 1}
		default:
			at.column++
		}
		text = text[size:]
	}
	return at, false
}
