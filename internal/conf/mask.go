package conf

import (
	"net/netip"
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
	pair     = regexp.MustCompile(`(?:^|//|[\s"'\[{(,])([^\s:/"'\[\]{}(),]+)(?::|%3[Aa])([^\s:/"',\]})][^\s"',\]}]*)`)
	named    = regexp.MustCompile(`(?i)\b([\w-]*(?:pass|pwd|pw\b|secret|token|credential|auth|login|api[_-]?key)[\w-]*)["']?\s*[:=]\s*(\S.*)`)
	option   = regexp.MustCompile(`(?i)(?:^|[\s"'])(-[pu]|--?(?:pass|pw|user|auth|token|secret)[\w-]*)[\s=]+(\S.*)`)
)

// notSecret finds what may stand behind a word and a colon: a port, the time of day, what we
// call it ourselves, or others.
var notSecret = regexp.MustCompile(`^(?:\d+(?:[:/?&;].*)?|(?:port|statsd|carbon|graphite)\W*)$`)

// Behind a scheme without its slashes stands a host with its port.
var (
	scheme   = regexp.MustCompile(`^(?i:udp|tcp|tls|https?)[46]?$`)
	hostPort = regexp.MustCompile(`^[\w.-]+:\d{1,5}\W*$`)
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
		if secret := s[len(head) : len(s)-1]; secret != "/" { // of a path: unix:///@x
			return head + stars(secret) + "@"
		}
		return s
	})
	text = maskValues(pair, text, isPassword)
	for _, form := range []*regexp.Regexp{query, named, option} {
		text = maskValues(form, text, isSecret)
	}
	return text
}

// isPassword says whether user:value may hold a password: not where that is a host with its
// port, or an address.
func isPassword(user, value string) bool {
	_, err := netip.ParseAddr(user + ":" + strings.TrimRight(value, ".;"))
	return err != nil && !notSecret.MatchString(value) && !(scheme.MatchString(user) && hostPort.MatchString(value))
}

// maskValues masks the second group of form where it is a secret, next to the first.
func maskValues(form *regexp.Regexp, text string, isSecret func(key, value string) bool) string {
	var b strings.Builder
	end := 0
	for _, m := range form.FindAllStringSubmatchIndex(text, -1) {
		if !isSecret(text[m[2]:m[3]], text[m[4]:m[5]]) {
			continue
		}
		b.WriteString(text[end:m[4]])
		b.WriteString(stars(text[m[4]:m[5]]))
		end = m[5]
	}
	return b.String() + text[end:]
}

// stars returns as many asterisks as s has characters.
func stars(s string) string { return strings.Repeat("*", utf8.RuneCountInString(s)) }
