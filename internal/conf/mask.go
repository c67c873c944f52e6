package conf

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// What looks like a secret, in a configuration and in what is said about one: a
// user with a password in an address, a value in a query, what stands behind a word
// that tells of a secret.
var (
	userinfo = regexp.MustCompile(`//[^\s"']*@|[^\s/"'\[{(,:]+:[^\s/"'@][^\s"']*@`)
	query    = regexp.MustCompile(`[?&]([\w.-]+)=([^&\s"'\]},]+)`)
	named    = regexp.MustCompile(`(?i)\b([\w-]*(?:pass|pwd|pw\b|secret|token|credential|api[_-]?key)[\w-]*)["']?\s*[:=]\s*(\S.*)`)
)

// inValue finds what else a value may be that holds a secret: an address in whose user
// is what no address has, a header, a key.
var inValue = regexp.MustCompile(`(?is):.*(?:@|%40)|@.*:\d|^\s*(?:basic|bearer)\s|-----BEGIN `)

// MayBeSecret says whether the value of a key looks like one that holds a secret.
func MayBeSecret(key, value string) bool {
	pair := key + ": " + value
	return inValue.MatchString(value) || key == "username" && strings.Contains(value, ":") || Mask(pair) != pair
}

// isSecret says whether value, next to key, is one: not the options of addresses, and
// not the name of a file.
func isSecret(key, value string) bool {
	switch strings.ToLower(key) {
	case "mode", "group", "health":
		return false
	case "password_file":
		value = strings.TrimLeft(value, `"'`)
		return value != "" && !strings.ContainsRune("/.$,", rune(value[0]))
	}
	return true
}

// Mask returns text with asterisks in the place of all that looks like a secret. The
// number of characters stays.
func Mask(text string) string {
	text = userinfo.ReplaceAllStringFunc(text, func(s string) string {
		head := ""
		if strings.HasPrefix(s, "//") {
			head = "//"
		}
		return head + Stars(s[len(head):len(s)-1]) + "@"
	})
	for _, form := range []*regexp.Regexp{query, named} {
		text = maskValues(form, text)
	}
	return text
}

// maskValues masks the second group of form where the first tells of a secret.
func maskValues(form *regexp.Regexp, text string) string {
	var b strings.Builder
	end := 0
	for _, m := range form.FindAllStringSubmatchIndex(text, -1) {
		if !isSecret(text[m[2]:m[3]], text[m[4]:m[5]]) {
			continue
		}
		b.WriteString(text[end:m[4]])
		b.WriteString(Stars(text[m[4]:m[5]]))
		end = m[5]
	}
	return b.String() + text[end:]
}

// Stars returns as many asterisks as s has characters.
func Stars(s string) string { return strings.Repeat("*", utf8.RuneCountInString(s)) }
