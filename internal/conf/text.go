package conf

import (
	"slices"
	"strings"
	"unicode"
)

// Closest returns the one of words that is most similar to word, and their distance.
func Closest(word string, words []string) (closest string, far int) {
	lower := strings.ToLower(word)
	farFrom := func(w string) int { return distance(strings.ToLower(w), lower) }
	closest = slices.MinFunc(words, func(a, b string) int { return farFrom(a) - farFrom(b) })
	return closest, farFrom(closest)
}

// distance returns the Levenshtein distance of a and b, in bytes.
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

// Visible returns text with each character that a terminal would interpret or not show replaced by
// U+FFFD.
func Visible(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\ufffd'
	}, text)
}

// ShellQuote quotes a word for a shell if necessary.
func ShellQuote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n'\"\\$&|;<>()*?[]#~`!{}") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
