package conf

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// secrets match what may be a secret in something that somebody has typed, as their second groups:
// a user and a password in an address, a value in a query or after a word that suggests a secret,
// and what follows a user and a colon and is not a port.
var secrets = []*regexp.Regexp{
	regexp.MustCompile(`(//)([^\s"']*@)`),
	regexp.MustCompile(`([?&][\w.-]+=|` + secretWord + `[=:])([^\s"'&]+)`),
	regexp.MustCompile(`((?:^|[\s"'])[\w-]*` + secretWord + `[=:] )([^\s"'&]+)`),
	regexp.MustCompile(`((?:^|[\s"'=])[^\s"'=:/]+:)([^\s"':/]*[^\s"':/\d,;\])}][^\s"']*)`),
}

// secretWord suggests that a secret follows.
const secretWord = `(?i:pass|pw|secret|token|auth|key)[\w-]*`

// Mask returns text, which quotes what was typed, with an asterisk for each character of what looks
// like a secret.
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
