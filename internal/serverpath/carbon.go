package serverpath

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Carbon returns the metric under which carbon-cache stores a line, with its tags sorted; ok is false
// if it stores nothing.
func Carbon(line string) (metric string, ok bool) {
	if !utf8.ValidString(line) {
		return "", false // line.decode('utf-8'), and the connection is closed
	}
	fields := strings.FieldsFunc(line, unicode.IsSpace) // line.strip().split()
	if len(fields) != 3 {
		return "", false
	}
	for _, number := range fields[1:] {
		if _, err := strconv.ParseFloat(number, 64); err != nil {
			return "", false
		}
	}
	metric, ok = parse(fields[0])
	if !ok {
		metric = fields[0]
	}
	return metric, true
}

// Taggable reports whether graphite-web can index the tags of a path; if not, it indexes none of those
// that carbon sends in the same request.
func Taggable(path string) bool {
	_, ok := parse(strings.TrimFunc(path, unicode.IsSpace))
	return ok
}

// parse is TaggedSeries.parse(path).path; ok is false if that throws.
func parse(path string) (string, bool) {
	parse := parseCarbon
	if strings.HasSuffix(path, `"}`) && strings.Contains(path, "{") {
		parse = parseOpenMetrics
	}
	metric, tags, ok := parse(path)
	name := strings.TrimLeft(metric, "~") // sanitize_name_as_tag_value
	if !ok || name == "" {
		return "", false
	}
	delete(tags, "name") // tags['name'] = …
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		tags[key] = fmt.Sprintf(";%s=%s", key, tags[key])
	}
	return name + strings.Join(slices.Sorted(maps.Values(tags)), ""), true // format
}

var openMetricsTag = regexp.MustCompile(`^([^=]+)="((?:[\\]["\\]|[^"\\])+)"(:?,|$)`)

func parseOpenMetrics(path string) (metric string, tags map[string]string, ok bool) {
	parts := strings.SplitN(path[:len(path)-1], "{", 3)
	if len(parts) != 2 || parts[0] == "" {
		return "", nil, false
	}
	tags = map[string]string{}
	for raw := parts[1]; raw != ""; {
		m := openMetricsTag.FindStringSubmatch(raw)
		if m == nil {
			return "", nil, false
		}
		value := strings.ReplaceAll(strings.ReplaceAll(m[2], `\"`, `"`), `\\`, `\`)
		if !isTag(m[1], value) {
			return "", nil, false
		}
		tags[m[1]] = value
		raw = raw[len(m[0]):]
	}
	return parts[0], tags, true
}

func parseCarbon(path string) (metric string, tags map[string]string, ok bool) {
	segments := strings.Split(path, ";")
	tags = map[string]string{}
	for _, segment := range segments[1:] {
		key, value, ok := strings.Cut(segment, "=")
		if !ok || !isTag(key, value) {
			return "", nil, false
		}
		tags[key] = value
	}
	return segments[0], tags, segments[0] != ""
}

// isTag is validateTagAndValue.
func isTag(key, value string) bool {
	return key != "" && value != "" && !strings.ContainsAny(key, ";!^=") && !strings.Contains(value, ";") && value[0] != '~'
}

// IsTagged reports whether a metric is stored under its hash.
func IsTagged(metric string) bool { return strings.Contains(metric, ";") }

// Name returns a metric without its tags.
func Name(metric string) string {
	name, _, _ := strings.Cut(metric, ";")
	return name
}

// File returns the path of a metric's file below whisper's directory: that of TaggedSeries.encode.
func File(metric string) string {
	if IsTagged(metric) {
		sum := sha256.Sum256([]byte(metric))
		hash := hex.EncodeToString(sum[:])
		return "_tagged/" + hash[:3] + "/" + hash[3:6] + "/" + hash + ".wsp"
	}
	path := strings.TrimLeft(strings.ReplaceAll(metric, ".", "/"), "/")
	return regexp.MustCompile(`/+`).ReplaceAllString(path, "/") + ".wsp"
}
