package main

import (
	"cmp"
	"encoding"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/inlet"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// What a value was meant to be, where a mistake can be recognized: text that can be
// typed in its place. "" is no idea.

// valueHint is the hint for text, which the value v at path cannot be.
func valueHint(path, text string, v reflect.Value) string {
	switch v.Type() {
	case reflect.TypeFor[proxy.Address]():
		return addressHint(path, text, parses(address.Parse))
	case reflect.TypeFor[proxy.Upstream]():
		return addressHint(path, text, parses(address.ParseUpstream))
	case reflect.TypeFor[conf.Bytes]():
		isSize := func(s string) bool { return new(conf.Bytes).UnmarshalText([]byte(s)) == nil }
		if isOff(text) {
			return "0"
		}
		text = strings.TrimSpace(text)
		upper := strings.ToUpper(text)
		return first(isSize, upper+"iB", upper, text+"B", strings.Replace(upper, "IB", "iB", 1))
	}
	return ""
}

// first returns the first of what was meant, maybe, that is sound.
func first(isSound func(string) bool, meant ...string) string {
	i := slices.IndexFunc(meant, isSound)
	if i < 0 {
		return ""
	}
	return meant[i]
}

// parses says what parse takes.
func parses[T any](parse func(string) (T, error)) func(string) bool {
	return func(s string) bool {
		_, err := parse(s)
		return err == nil
	}
}

// withRemedy takes an error of a value apart: "x is no port (use 1 to 65535)".
func withRemedy(err error) (text, remedy string) {
	text = err.Error()
	if i := strings.LastIndex(text, " ("); i >= 0 && strings.HasSuffix(text, ")") {
		return text[:i], text[i+len(" (") : len(text)-1]
	}
	return text, ""
}

// addressHint is the address that text, at path, may have meant.
func addressHint(path, text string, isAddress func(string) bool) string {
	scheme, port, others := "tcp", "2003", []string{}
	if strings.Contains(path, "statsd") {
		scheme, port = "udp", "8125"
	}
	switch {
	case strings.HasPrefix(path, "forward.statsd."):
		others = []string{"unix"}
	case strings.HasPrefix(path, "forward."):
		others = []string{"udp", "unixgram"}
	}
	if several := eachOf(text, isAddress); several != "" {
		return several
	}
	if strings.HasPrefix(path, "forward.statsd.") && (strings.HasPrefix(text, "carbon:/") || strings.EqualFold(text, "carbon:")) {
		return "to: [carbon:]; where its points go says forward.carbon.to"
	}
	return first(func(s string) bool {
		network, _, _ := strings.Cut(s, ":")
		return isAddress(s) && !slices.Contains(others, network)
	}, address.Meant(text, scheme, port)...)
}

// eachOf shows the values that stand in text with commas between them as a list; "" if
// they are not.
func eachOf(text string, isSound func(string) bool) string {
	values := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	if len(values) < 2 || slices.ContainsFunc(values, func(v string) bool { return !isSound(v) }) {
		return ""
	}
	return fmt.Sprintf(`each by itself: ["%s"]`, strings.Join(values, `", "`))
}

// endpointHint is the endpoint that text may have meant.
func endpointHint(text string) string {
	if strings.HasPrefix(text, "unix") || strings.HasPrefix(text, "/") {
		return "etcd is reached over the network, like http://127.0.0.1:2379"
	}
	isEndpoint := func(s string) bool { return strings.HasPrefix(s, "http") && parses(etcd.ParseEndpoint)(s) }
	return cmp.Or(eachOf(text, parses(etcd.ParseEndpoint)), first(isEndpoint, address.Meant(text, "http", "2379")...), "write each like http://127.0.0.1:2379")
}

// durationHint is the duration that text may have meant.
func durationHint(path, text string) string {
	unit, least, most, otherwise := "s", time.Duration(0), time.Duration(math.MaxInt64), "write a number with a unit, like 5ms, 15s or 10m"
	switch path {
	case "coalesce":
		unit, most, otherwise = "ms", inlet.MaxCoalesce, "0 to 1s; 5ms suits most"
	case "membership.ttl":
		least, most, otherwise = 5*time.Second, time.Hour, "5s to 1h; 15s suits most"
	}
	text = strings.ToLower(text)
	if (isOff(text) || text == "unlimited" || text == "infinite") && least == 0 {
		return "0 is never, where that makes sense"
	}
	meant := text + unit
	if m := inWords.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1])
		switch meant = m[1] + m[2] + m[3]; m[2] {
		case "mil":
			meant = m[1] + "ms"
		case "d":
			meant = strconv.Itoa(24*n) + "h"
		case "w":
			meant = strconv.Itoa(7*24*n) + "h"
		}
	}
	isSound := func(s string) bool {
		d, err := time.ParseDuration(s)
		return err == nil && least <= d && d <= most
	}
	return cmp.Or(first(isSound, meant), otherwise)
}

// inWords finds a duration as people write it: 15 sec, 2 minutes, 1d.
var inWords = regexp.MustCompile(`^(\d{1,6})\s*(?:(ms|mil|[shdw])[a-z]*|(m)(?:in[a-z]*)?)$`)

// listHint shows how to write n as the list v.
func listHint(path string, n *yaml.Node, v reflect.Value) string {
	switch {
	case n.Kind != yaml.ScalarNode || isNull(n) || n.Value == "true":
		return "write it in brackets: [first, second]; [] is none"
	case isOff(n.Value) || n.Value == "":
		return "[] is none"
	}
	all := strings.FieldsFunc(n.Value, isBetweenWords)
	for i, text := range all {
		one := reflect.New(v.Type().Elem())
		if reads, ok := one.Interface().(encoding.TextUnmarshaler); ok && reads.UnmarshalText([]byte(text)) != nil {
			all[i] = cmp.Or(valueHint(path, text, one.Elem()), text)
		}
	}
	return "put it in brackets: [" + strings.Join(all, ", ") + "]; [] is none"
}

// isOff says whether a word is meant to turn something off.
func isOff(word string) bool {
	return slices.Contains([]string{"false", "off", "no", "none", "never", "disabled", "disable"}, strings.ToLower(word))
}

// sectionHint shows how to write n where a section with the keys known stands.
func sectionHint(path string, n *yaml.Node, known []string) string {
	scalar, first := n.Kind == yaml.ScalarNode && !isNull(n), n
	if n.Kind == yaml.SequenceNode && len(n.Content) > 0 {
		first = n.Content[0]
	}
	below := "write keys below it: " + strings.Join(known, ", ")
	switch {
	case falseBlank.MatchString(n.Value):
		return typeAnew
	case assignment.MatchString(n.Value) || noBlankList.MatchString(n.Value):
		return keyValue
	case slices.Contains(known, "to") && path != "rewrite" && first.Kind == yaml.ScalarNode && !isNull(first):
		return "{to: [" + first.Value + "]}"
	case path == "etcd" && first.Kind == yaml.ScalarNode && !isNull(first):
		return "{endpoints: [" + first.Value + "]}"
	case !scalar:
		return below
	case isOff(n.Value) && (path == "admin" || path == "graphite"):
		return fmt.Sprintf(`%s: {%s: ""}`, path, known[0])
	case isOff(n.Value) && path == "listen":
		return "listen: {carbon: []} for StatsD alone, listen: {statsd: []} for Carbon alone"
	case path == "telemetry":
		return fmt.Sprintf("telemetry: {statsd: %v}", !isOff(n.Value))
	case path == "aggregate":
		return "to count StatsD here: forward: {statsd: {to: [carbon:]}} and rewrite: {unmatched: prefix}; to leave that to a statsd, remove this"
	case path == "etcd.tls":
		return "https:// in etcd.endpoints is enough; below tls: go ca, cert and key, where it takes files of your own"
	case strings.HasSuffix(path, ".tls"):
		return "tls:// in to: is enough; below tls: go ca, cert and key, where it takes files of your own"
	case len(known) == 1 || path == "admin" || path == "graphite":
		return fmt.Sprintf("%s: {%s: %s}", path, known[0], n.Value)
	}
	return below
}

// quotesHint shows how to write a number or a truth where a string is wanted; "" where no
// quotes would help.
func quotesHint(path, text string) string {
	switch {
	case takesAnyText.MatchString(path):
		return fmt.Sprintf("put it in quotes: %q", text)
	case path == "admin.listen" && isPort.MatchString(text):
		return "localhost:" + text
	case strings.HasPrefix(path, "etcd.endpoints"):
		return "http://127.0.0.1:" + cmp.Or(isPort.FindString(text), "2379")
	}
	return ""
}

var (
	isPort       = regexp.MustCompile(`^\d{1,5}$`)
	takesAnyText = regexp.MustCompile(`^(?:membership\.(?:pool|owner|names[\[.].*|state_dir)|rewrite\.from|etcd\.(?:username|password_file)|.*\.tls\..*|.*\.name)$`)
)

// scalarHint tells how to write one value where n stands.
func scalarHint(n *yaml.Node) string {
	switch {
	case isNull(n):
		return "write a value, or remove the key for the default"
	case isBraced(n) && len(n.Content) == 2 && isMissing(n.Content[1]) && n.Content[0].Kind == yaml.ScalarNode:
		return "text that begins with a brace needs quotes: " + `"{` + n.Content[0].Value + `}"`
	case isBraced(n) && len(n.Content) > 0 && n.Content[0].Kind == yaml.MappingNode: // {{ … }}, of a template
		return "write one value; text that begins with a brace needs quotes"
	case n.Kind == yaml.SequenceNode && len(n.Content) == 1 && n.Content[0].Kind == yaml.ScalarNode:
		return "without brackets: " + n.Content[0].Value
	}
	return "write one value"
}

// unknownHint tells a key that is known instead of key, which stands below path, and
// its own path; "" where there is none.
func (d *decoder) unknownHint(path, key string, known []string) (hint, meant string) {
	switch {
	case key == "<<":
		return "merge keys are not supported; write the keys themselves", ""
	case falseBlank.MatchString(key), strings.TrimSpace(key) != key:
		_, meant = d.unknownHint(path, strings.TrimSpace(falseBlank.ReplaceAllString(key, "")), known)
		return typeAnew, meant
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
	if top, _, dotted := strings.Cut(key, "."); dotted && slices.Contains(known, top) {
		levels := strings.Split(key, ".")
		return "each level is a key of its own: " + strings.Join(levels, ": {") + ": …" + strings.Repeat("}", len(levels)-1), join(path, key)
	}
	if here := calledHere(key, known); here != "" {
		return "here it is called " + here + ":", join(path, here)
	}
	if len(d.sections[key]) == 0 {
		key = strings.TrimSuffix(key, "_file")
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

// alsoCalled is what others call our keys, without case, dashes and plural.
var alsoCalled = map[string][]string{
	"forward":     strings.Fields("upstream backend destination output relay target"),
	"to":          strings.Fields("host server address addr url upstream backend destination endpoint target port"),
	"endpoints":   strings.Fields("host server address addr url member"),
	"listen":      strings.Fields("listener input bind address addr url host port"),
	"carbon":      strings.Fields("graphite"),
	"statsd":      strings.Fields("udp enabled enable"),
	"owner":       strings.Fields("host hostname"),
	"rewrite":     strings.Fields("prefix"),
	"from":        strings.Fields("prefix match"),
	"admin":       strings.Fields("http web metric statu ui prometheu"),
	"interval":    strings.Fields("flush flushinterval"),
	"percentiles": strings.Fields("percentthreshold"),
	"expire":      strings.Fields("deleteidlestat"),
	"ca":          strings.Fields("cafile cacert cacertfile capath trustedcafile"),
	"cert":        strings.Fields("certfile clientcert crt"),
	"key":         strings.Fields("keyfile clientkey privatekey"),
}

// falseBlank is what a person takes for a blank, or for nothing.
var falseBlank = regexp.MustCompile(`[^\x00-\x7f\pL\pM\pN\pP\pS]`)

const typeAnew = "what looks like a blank here, or like nothing, is no blank: type the line anew"

var noDashes = strings.NewReplacer("_", "", "-", "")

// calledHere returns the one of the keys known that others call key; "" for none.
func calledHere(key string, known []string) string {
	key = strings.TrimSuffix(noDashes.Replace(strings.ToLower(key)), "s")
	for _, k := range known {
		if slices.Contains(alsoCalled[k], key) {
			return k
		}
	}
	return ""
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
)

// mistakes are those that one line tells, with a hint for each, which may show what is in the
// group.
var mistakes = []struct {
	form *regexp.Regexp
	hint string
}{
	{regexp.MustCompile(`^ *\t`), "YAML is indented by blanks: replace the tabs"},
	{falseBlank, typeAnew},
	{regexp.MustCompile(`^%`), "the file has no directives: remove this line"},
	{regexp.MustCompile(`to:\s*((?:carbon|stdout):)`), "a list stands in brackets: to: [%s]"},
	{regexp.MustCompile(`to:\s*([\w.-]*\{name\}[\w.-]*)`), "text with a brace needs quotes: to: %q"},
	// in a list or section in one line
	{regexp.MustCompile(`[\[{,]\s*(?:\w+:\s+)?([^\s"'\[\]{},]*(?:\$\{\w*\}|://\[[\w:.%]+\])[^\s"'\[\]{},]*)`), "a value with brackets or braces, in a list or section in one line, needs quotes: %q"},
	{regexp.MustCompile(`^\s*[\w]+:\s+-\s+(\S+)`), "a list in one line stands in brackets: [%s]"},
}

// hintForSyntax names the usual mistake in a file, which was noticed at a place.
func hintForSyntax(lines []string, at place) string {
	if at == (place{}) {
		return ""
	}
	here := lines[at.line-1]
	for _, usual := range mistakes {
		if m := usual.form.FindStringSubmatch(here); len(m) > 1 {
			return fmt.Sprintf(usual.hint, m[1])
		} else if m != nil {
			return usual.hint
		}
	}
	rest := here[min(at.column-1, len(here)):] // which does not fit
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
		case strings.Count(ln, "[") > strings.Count(ln, "]") && (n < at.line || strings.HasPrefix(rest, "}")):
			return fmt.Sprintf("a bracket that opens in line %d is not closed", n)
		case strings.Count(ln, "{") > strings.Count(ln, "}") && (n < at.line || strings.HasPrefix(rest, "]")):
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
