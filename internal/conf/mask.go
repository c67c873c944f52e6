package conf

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// secrets find what may be one in a word that somebody has typed, behind their first groups: a
// user and a password in an address, a value in a query or behind a word that tells of a secret,
// what stands behind a user and a colon and is no port.
var secrets = []*regexp.Regexp{
	regexp.MustCompile(`(//)([^\s"']*@)`),
	regexp.MustCompile(`([?&][\w.-]+=|` + secretWord + `[=:])([^\s"'&]+)`),
	regexp.MustCompile(`((?:^|[\s"'])[\w-]*` + secretWord + `[=:] )([^\s"'&]+)`),
	regexp.MustCompile(`((?:^|[\s"'=])[^\s"'=:/]+:)([^\s"':/]*[^\s"':/\d,;\])}][^\s"']*)`),
}

// secretWord tells of a secret.
const secretWord = `(?i:pass|pw|secret|token|auth|key)[\w-]*`

// Mask returns text, which tells of what was typed, with asterisks in the place of all that looks
// like a secret. The number of characters stays.
func Mask(text string) string {
	for _, form := range secrets {
		var b strings.Builder
		end := 0
		for _, m := range form.FindAllStringSubmatchIndex(text, -1) {
			b.WriteString(text[end:m[4]])
			b.WriteString(strings.Repeat("*", utf8.RuneCountInString(text[m[4]:m[5]])))
			end = m[5]
		}
		text = b.String() + text[end:]
	}
	return text
}
