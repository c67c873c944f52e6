package conf

import (
	"slices"
	"strings"
	"unicode"
)

// Closest returns the one of words that word is most likely meant to be, and their distance.
func Closest(word string, words []string) (closest string, far int) {
	lower := strings.ToLower(word)
	farFrom := func(w string) int { return distance(strings.ToLower(w), lower) }
	closest = slices.MinFunc(words, func(a, b string) int { return farFrom(a) - farFrom(b) })
	return closest, farFrom(closest)
}

// distance returns how many bytes to insert, delete or replace to make b of a
// (Levenshtein's distance).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Visible returns text with a mark in the place of each character that a terminal would obey,
// or not show.
func Visible(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\ufffd'
	}, text)
}

// ShellQuote quotes a word for a shell where it must be.
func ShellQuote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n'\"\\$&|;<>()*?[]#~`!{}") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
