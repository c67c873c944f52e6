package main

import (
	"cmp"
	"fmt"
	"net"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// What a value was meant to be, where a mistake can be recognized: text that can be
// typed in its place. "" is no idea.

// valueHint is the hint for text, which the value v at path cannot be.
func valueHint(path, text string, v reflect.Value) string {
	switch {
	case v.Type() == reflect.TypeFor[proxy.Address](), v.Type() == reflect.TypeFor[proxy.Upstream]():
		return addressHint(path, text)
	case v.Type() == reflect.TypeFor[conf.Bytes]():
		return sizeHint(text)
	case v.Type() == reflect.TypeFor[time.Duration]():
		return durationHint(path, text)
	case v.Kind() == reflect.Bool:
		return truthHint(text)
	}
	return ""
}

// withRemedy takes an error of a value apart: "x is no port (use 1 to 65535)".
func withRemedy(err error) (text, remedy string) {
	text = err.Error()
	if i := strings.LastIndex(text, " ("); i >= 0 && strings.HasSuffix(text, ")") {
		return text[:i], text[i+len(" (") : len(text)-1]
	}
	return text, ""
}

// addressParts are a scheme, or what looks like one, and the rest.
var addressParts = regexp.MustCompile(`(?s)^(?:([A-Za-z][A-Za-z0-9+.-]*)://?|(?i:(udp|tcp|tls|ssl|unix|unixgram|stdout|carbon))(?::|//))?(.*)$`)

// addressHint is the address that text, at path, may have meant.
func addressHint(path, text string) string {
	listens := strings.HasPrefix(path, "listen.")
	text = unquoted(text)
	if all := listed(text); len(all) > 1 {
		for i, one := range all {
			all[i] = addressHint(path, one)
		}
		return each + "[" + strings.Join(all, ", ") + "]"
	}
	m := addressParts.FindStringSubmatch(text)
	scheme, rest := strings.ToLower(m[1]+m[2]), m[3]
	if scheme == "stdout" && !listens || scheme == "carbon" && strings.HasPrefix(path, "forward.statsd") {
		return scheme + ":"
	}
	options := ""
	if i := strings.IndexByte(rest, '?'); i >= 0 {
		rest, options = rest[:i], rest[i:]
	}
	usual, host, port := "udp", "statsd.example.net", "8125"
	if !strings.Contains(path, "statsd") {
		usual, host, port = "tcp", "graphite.example.net", "2003"
	}
	if listens {
		host = "localhost"
	}
	switch scheme {
	case "ssl", "https":
		scheme = "tls"
	case "pickle": // at a port of its own
		rest, _, _ = strings.Cut(rest, ":")
	}
	if scheme == "unix" || scheme == "unixgram" || strings.HasPrefix(rest, "/") && scheme == "" {
		if scheme == "" {
			scheme = map[string]string{"udp": "unixgram", "tcp": "unix"}[usual]
		}
		rest = scheme + ":///" + strings.TrimLeft(rest, "/")
	} else {
		if !slices.Contains([]string{"udp", "tcp", "tls"}, scheme) || scheme == "tls" && listens {
			scheme = usual
		}
		rest = scheme + "://" + hostPortHint(rest, host, port)
	}
	for _, s := range []string{rest + options, rest + withHealth(options), rest} {
		if listens {
			if _, err := proxy.ParseAddress(s); err == nil {
				return s
			}
		} else if _, err := outlet.ParseAddress(s); err == nil {
			return s
		}
	}
	return ""
}

// withHealth is the option that was wanted, where it was misspelt.
func withHealth(options string) string {
	if strings.Contains(options, "health") {
		return "?health=8126"
	}
	return ""
}

// each says that text was a list.
const each = "one address each: "

// listed are the parts of a list that is written as one text.
func listed(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == ';' })
}

// unquoted is text without what YAML would have cut, or takes for letters.
func unquoted(text string) string { return strings.Trim(text, " \t\"'“”„[]") }

// hostPortHint is the host and port that s may have meant: the given ones, where s lacks
// them.
func hostPortHint(s, host, port string) string {
	s, _, _ = strings.Cut(s, "/")
	h, p := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && (net.ParseIP(s) == nil || net.ParseIP(s[:i]) != nil && len(s)-i > len(":99")) {
		h, p = s[:i], s[i+1:]
	}
	h = strings.Trim(h, "[] ")
	if n, err := strconv.ParseUint(h, 10, 16); err == nil && n > 0 && p == "" {
		h, p = "", h
	}
	if n, err := strconv.ParseUint(strings.TrimSpace(p), 10, 16); err != nil || n == 0 {
		p = port
	}
	switch h {
	case "":
		h = host
	case "*":
		h = "0.0.0.0"
	}
	return net.JoinHostPort(h, strings.TrimSpace(p))
}

var (
	looseSize     = regexp.MustCompile(`(?i)^\s*(\d+)\s*([kmgt]?)i?b?s?\s*$`)
	looseDuration = regexp.MustCompile(`(?i)^\s*(\d+)\s*(ms|s|m|h|d|w)?[a-z]*\s*$`)
)

// sizeHint is the size that text may have meant.
func sizeHint(text string) string {
	m := looseSize.FindStringSubmatch(text)
	if m == nil || m[2] == "" {
		return ""
	}
	return m[1] + strings.ToUpper(m[2]) + "iB"
}

// durationHint is the duration that text may have meant.
func durationHint(path, text string) string {
	if isOff(text) && path != "membership.ttl" && path != "aggregate.interval" {
		return "0"
	}
	m := looseDuration.FindStringSubmatch(text)
	if m == nil {
		return "write a number with a unit, like 5ms, 15s or 10m"
	}
	n, err := strconv.Atoi(m[1])
	switch unit := strings.ToLower(m[2]); {
	case err != nil || n > 1e6:
		return "write a number with a unit, like 5ms, 15s or 10m"
	case unit == "d":
		return fmt.Sprintf("%dh", 24*n)
	case unit == "w":
		return fmt.Sprintf("%dh", 7*24*n)
	case unit == "" && path == "coalesce":
		return m[1] + "ms"
	case unit == "":
		return m[1] + "s"
	default:
		return m[1] + unit
	}
}

// truthHint is what text says in the words of YAML.
func truthHint(text string) string {
	switch strings.ToLower(text) {
	case "yes", "on", "y", "true", "1", "enabled":
		return "true"
	case "no", "off", "n", "false", "0", "disabled", "none":
		return "false"
	}
	return ""
}

// isOff says whether text is a word for nothing.
func isOff(text string) bool {
	switch strings.ToLower(text) {
	case "off", "none", "no", "false", "disabled", "never", "null":
		return true
	}
	return false
}

// listHint shows how to write n, at path, as a list.
func listHint(path string, n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || isNull(n) || isOff(n.Value) {
		return "write it in brackets: [first, second]; [] is none"
	}
	one, hint := unquoted(n.Value), ""
	if path == "etcd.endpoints" {
		hint = endpointHint(one)
	} else if strings.HasPrefix(path, "listen.") || strings.HasSuffix(path, ".to") {
		hint = addressHint(path, one)
	}
	if list, ok := strings.CutPrefix(hint, each); ok {
		return "put it in brackets: " + list
	}
	return "put it in brackets: [" + cmp.Or(hint, one) + "]"
}

// endpointHint is the endpoint that s may have meant.
func endpointHint(s string) string {
	s = unquoted(s)
	if all := listed(s); len(all) > 1 {
		for i, one := range all {
			all[i] = endpointHint(one)
		}
		return each + "[" + strings.Join(all, ", ") + "]"
	}
	m := addressParts.FindStringSubmatch(s)
	scheme := "http"
	if strings.EqualFold(m[1], "https") {
		scheme = "https"
	}
	hint := scheme + "://" + hostPortHint(strings.TrimPrefix(strings.TrimPrefix(m[3], "http//"), "https//"), "127.0.0.1", "2379")
	if _, err := etcd.ParseEndpoint(hint); err != nil {
		return "http://127.0.0.1:2379"
	}
	return hint
}

// sectionHint shows how to write n where a section with the keys known stands.
func sectionHint(path string, n *yaml.Node, known []string) string {
	if n.Kind == yaml.ScalarNode && (assignment.MatchString(n.Value) || noBlankList.MatchString(n.Value)) {
		return keyValue
	}
	if slices.Contains(known, "to") && path != "rewrite" {
		if n.Kind == yaml.ScalarNode && !isNull(n) {
			return "{to: [" + addressHint(path+".to", n.Value) + "]}"
		}
		if n.Kind == yaml.SequenceNode && len(n.Content) > 0 && n.Content[0].Kind == yaml.ScalarNode {
			return "{to: [" + addressHint(path+".to", n.Content[0].Value) + "]}"
		}
	}
	if len(known) == 1 || path == "admin" || path == "graphite" {
		if n.Kind == yaml.ScalarNode && !isNull(n) {
			return fmt.Sprintf("%s: {%s: %s}", path, known[0], n.Value)
		}
	}
	return "write keys below it: " + strings.Join(known, ", ")
}

// quotesHint shows how to write a number or a truth where a string is wanted.
func quotesHint(path, text string) string {
	switch {
	case path == "admin.listen" && isOff(text):
		return `"" turns the page off`
	case path == "admin.listen":
		return "localhost:" + text
	case strings.HasPrefix(path, "etcd.endpoints"):
		return "http://127.0.0.1:" + text
	}
	return fmt.Sprintf("put it in quotes: %q", text)
}

// scalarHint tells how to write one value where n stands.
func scalarHint(path string, n *yaml.Node) string {
	switch {
	case isNull(n):
		return "write a value, or remove the key for the default"
	case isBraced(n) && len(n.Content) == 2:
		return "text that begins with a brace needs quotes: " + `"{` + n.Content[0].Value + `}"`
	case n.Kind == yaml.SequenceNode && len(n.Content) == 1 && n.Content[0].Kind == yaml.ScalarNode:
		return "without brackets: " + n.Content[0].Value
	case n.Kind == yaml.MappingNode && strings.Contains(path, ".to["):
		if hint := addressHint(path, mappedAddress(n)); hint != "" {
			return hint
		}
	}
	return "write one value"
}

// mappedAddress is host and port of {host: h, port: 1}.
func mappedAddress(n *yaml.Node) string {
	var host, port string
	for entry := range slices.Chunk(n.Content, 2) {
		switch entry[0].Value {
		case "host", "address":
			host = entry[1].Value
		case "port":
			port = entry[1].Value
		}
	}
	return host + ":" + port
}

// unknownHint tells a key that is known instead of key, which stands below path, and
// its own path; "" where there is none.
func (d *decoder) unknownHint(path, key string, known []string) (hint, meant string) {
	switch {
	case key == "<<":
		return "merge keys are not supported; write the keys themselves", ""
	case len(key) > maxKey:
		return "known here: " + strings.Join(known, ", "), ""
	}
	closest := slices.MinFunc(known, func(a, b string) int { return unlikeness(a, key) - unlikeness(b, key) })
	if i := slices.IndexFunc(known, func(k string) bool { return len(key) > 2 && strings.HasPrefix(k, key) }); i >= 0 {
		closest = known[i]
	}
	switch {
	case path == "etcd" && strings.HasPrefix(key, "passw"):
		return "the password alone goes into a file: password_file: /etc/prefixproxy/etcd-password", ""
	case unlikeness(closest, key) <= max(1, len(closest)/3) || strings.HasPrefix(closest, key):
		return "did you mean " + closest + "?", join(path, closest)
	}
	elsewhere := d.sections[key]
	if below := slices.DeleteFunc(slices.Clone(elsewhere), func(at string) bool { return !within(at, path) }); len(below) > 0 {
		elsewhere = below
	}
	switch {
	case len(elsewhere) == 1:
		return fmt.Sprintf("%s goes below %s:, indented", key, elsewhere[0]), join(elsewhere[0], key)
	case len(elsewhere) > 1:
		return fmt.Sprintf("%s goes below %s:, indented", key, strings.Join(elsewhere, ": or ")), ""
	case path == "" && strings.HasPrefix(key, "log"):
		return "the log is steered by flags: prefixproxy run --log-level debug --log-format json", ""
	}
	return "known here: " + strings.Join(known, ", "), ""
}

// maxKey bounds what is compared with the keys that are known.
const maxKey = 100

// unlikeness is the distance of two keys, whatever their case and their dashes.
func unlikeness(a, b string) int {
	return distance(a, strings.ReplaceAll(strings.ToLower(b), "-", "_"))
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

// keyValue is what a line of YAML looks like.
const keyValue = "a key ends in a colon, with a blank behind it: key: value"

// The usual mistakes in YAML, as they look in a line.
var (
	noBlank     = regexp.MustCompile(`^\s*(?:[\w]+:[\[{"'\w][^/]|.*[{,]\s*[\w]+:[\[{"'])`) // key:[value]
	noBlankList = regexp.MustCompile(`^\w+:[\[{]`)
	noDashBlank = regexp.MustCompile(`^\s*-[^\s-]`)
	noColon     = regexp.MustCompile(`^\s*[a-z_]+\s*$`)
	assignment  = regexp.MustCompile(`^\s*[\w.]+\s*=`)
	bareName    = regexp.MustCompile(`to:\s*([\w.-]*\{name\}[\w.-]*)`)
	bareBrace   = regexp.MustCompile(`[\[{,]\s*(?:\w+:\s+)?([^\s"'\[\]{},]*\$\{\w*\}[^\s"'\[\]{},]*)`) // in a list or section in one line
	dashBehind  = regexp.MustCompile(`^\s*[\w]+:\s+-\s+(\S+)`)
)

// hintForSyntax names the usual mistake in a file, which was noticed at a place.
func hintForSyntax(lines []string, at place) string {
	if at == (place{}) {
		return ""
	}
	here := lines[at.line-1]
	if indent := here[:len(here)-len(strings.TrimLeft(here, " \t"))]; strings.Contains(indent, "\t") {
		return "YAML is indented by blanks: replace the tabs"
	}
	if m := bareName.FindStringSubmatch(here); m != nil {
		return fmt.Sprintf("text with a brace needs quotes: to: %q", m[1])
	}
	if m := bareBrace.FindStringSubmatch(here); m != nil {
		return fmt.Sprintf("a variable in a list or section in one line needs quotes: %q", m[1])
	}
	if m := dashBehind.FindStringSubmatch(here); m != nil {
		return fmt.Sprintf("a list in one line stands in brackets: [%s]", m[1])
	}
	for i := at.line - 1; i >= max(at.line-3, 0); i-- {
		ln, _, _ := strings.Cut(lines[i], " #")
		switch n := i + 1; {
		case strings.HasPrefix(strings.TrimSpace(ln), "#"):
		case assignment.MatchString(ln):
			return fmt.Sprintf("line %d: %s", n, keyValue)
		case noColon.MatchString(ln):
			return fmt.Sprintf("line %d lacks a colon: %s:", n, strings.TrimSpace(ln))
		case noDashBlank.MatchString(ln):
			return fmt.Sprintf("line %d lacks a blank behind its dash: - value", n)
		case strings.Count(ln, "[") > strings.Count(ln, "]") && i < at.line-1:
			return fmt.Sprintf("a bracket that opens in line %d is not closed", n)
		case strings.Count(ln, "{") > strings.Count(ln, "}") && i < at.line-1:
			return fmt.Sprintf("a brace that opens in line %d is not closed", n)
		case strings.Count(ln, `"`)%2 == 1 || strings.Count(ln, "'")%2 == 1:
			return fmt.Sprintf("a quote in line %d is not closed", n)
		case noBlank.MatchString(ln):
			return fmt.Sprintf("line %d lacks a blank behind a colon: key: value", n)
		}
	}
	if at.line > 1 && strings.TrimSpace(here) != "" && at.column == len(here)-len(strings.TrimLeft(here, " "))+1 && at.column > 1 {
		return "the keys of a section are indented alike: this one isn't"
	}
	return `a value needs quotes if it has ": " or " #" in it, ends in ":", or begins with one of [ ] { } @ % & * ! | > ' "`
}
