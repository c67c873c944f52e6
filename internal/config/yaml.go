package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// A decoder sets the fields of a struct from a YAML document. It is strict, and continues after a
// problem, so that one run finds all of them.
type decoder struct {
	lookupEnv func(name string) (value string, ok bool)

	paths    []string         // of all keys that have a value
	places   map[string]place // of each value in the file, by its path; of a section, that of its key
	unread   map[string]bool  // by path; true: a value that could not be read; false: what contains one
	problems []problem
}

// decode reads text into the struct v; what text does not contain stays as it is.
func (d *decoder) decode(text []byte, v reflect.Value) {
	d.places, d.unread = map[string]place{}, map[string]bool{}
	for _, f := range values("", v) {
		d.paths = append(d.paths, f.key)
	}
	root, bad := parse(text)
	if bad != nil {
		d.skip("")
		d.problems = append(d.problems, *bad)
	} else if root != nil {
		d.value("", root, v)
	}
}

// value sets v from n.
func (d *decoder) value(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		d.wrongf(path, n, valueItself, noAnchors)
		return
	}
	switch {
	case path == namesPath: // it has more forms than its type shows
		readNames(d, path, n, v)
	case isText(v) || v.Kind() != reflect.Struct && v.Kind() != reflect.Slice:
		d.scalar(path, n, v)
	case v.Kind() == reflect.Struct:
		d.section(path, n, v)
	default:
		d.list(path, n, v, maxList)
	}
}

// section sets the fields of the struct v. An empty section is all defaults.
func (d *decoder) section(path string, n *yaml.Node, v reflect.Value) {
	if isNull(n) {
		return
	}
	known := keys(v)
	if n.Kind != yaml.MappingNode {
		d.wrongf(path, n, `write keys below it, as "key: value" with a space after the colon: `+strings.Join(known, ", "), "want a section, got %s", describe(n))
		return
	}
	all, seen := fields(v), map[string]place{}
	for entry := range slices.Chunk(n.Content, 2) {
		key, at := entry[0].Value, placeOf(entry[0])
		if entry[0].Kind != yaml.ScalarNode {
			d.addf(path, at, "valid here: "+strings.Join(known, ", "), "%s can't be a key", describe(entry[0]))
			continue
		}
		i := slices.IndexFunc(all, func(f field) bool { return f.key == key })
		first, again := seen[key]
		switch {
		case i < 0:
			hint, meant := d.unknownHint(path, key, known)
			if i := strings.IndexAny(key, ":=@ "); i >= 0 {
				key = key[:i+1] + "…" // a password may follow
			}
			d.addf(join(path, key), at, hint, "unknown key %q", key)
			if meant != "" {
				d.skip(meant) // nobody need hear that it is missing
			}
		case again:
			d.addf(join(path, key), at, "remove one of them", "duplicate key %q, first on line %d", key, first.line)
		default:
			seen[key] = at
			d.places[join(path, key)] = valuePlace(entry[0], entry[1])
			d.value(join(path, key), entry[1], all[i].value)
		}
	}
}

// maxList bounds a list: addresses are compared with one another.
const maxList = 1000

// list sets the slice v to no more than most values. If those are sections, the first of the former
// values has the defaults for each, and a single one needs no list.
func (d *decoder) list(path string, n *yaml.Node, v reflect.Value, most int) {
	element := reflect.New(v.Type().Elem()).Elem()
	ofSections := element.Kind() == reflect.Struct && !isText(element)
	if ofSections && v.Len() > 0 {
		element.Set(v.Index(0))
	}
	if ofSections && n.Kind != yaml.SequenceNode {
		d.section(path, n, element)
		v.Set(reflect.Append(reflect.MakeSlice(v.Type(), 0, 1), element))
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.wrongf(path, n, "write it in brackets: [first, second]; [] is an empty list", "want a list, got %s", describe(n))
		return
	}
	if len(n.Content) > most {
		d.wrongf(path, n, fmt.Sprintf("at most %d", most), "a list of %d is too long", len(n.Content))
		return
	}
	all := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, value := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.places[at] = placeOf(value)
		all.Index(i).Set(element)
		d.value(at, value, all.Index(i))
	}
	v.Set(all)
}

// scalar sets v, a single value: an encoding.TextUnmarshaler, duration, string, number or boolean.
func (d *decoder) scalar(path string, n *yaml.Node, v reflect.Value) {
	text, bare, ok := d.text(path, n, v)
	if !ok {
		return
	}
	replaced := ""
	if text != n.Value {
		replaced = ", with its variables replaced"
	}
	switch {
	case isText(v):
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
			what, remedy := withRemedy(err)
			d.wrongf(path, n, remedy, "%s", concealed(path, what+replaced))
		}
	case v.Type() == reflect.TypeFor[time.Duration]():
		span, err := time.ParseDuration(text)
		if err != nil {
			d.wrongf(path, n, "a number with a unit, like 5ms, 15s, 10m or 24h", "want a duration, got %s%s", describe(n), replaced)
		}
		v.SetInt(int64(span))
	case v.Kind() == reflect.String:
		v.SetString(text)
	default: // a number or a boolean, written as in JSON
		if err := json.Unmarshal([]byte(text), v.Addr().Interface()); err != nil || !bare || strings.Contains(text, "null") {
			wanted := plainValues[v.Kind()]
			d.wrongf(path, n, wanted.hint, "want %s, got %s%s", wanted.what, describe(n), replaced)
		}
	}
}

var plainValues = map[reflect.Kind]struct{ what, hint string }{
	reflect.Int:     {"a whole number", "write plain digits, like 1000, without quotes"},
	reflect.Float64: {"a plain number", "write it like 90 or 99.9, without quotes"},
	reflect.Bool:    {"true or false", "write true or false, without quotes"},
}

// withRemedy splits an error about a value: "x is no port (use 1 to 65535)".
func withRemedy(err error) (text, remedy string) {
	text = err.Error()
	if i := strings.LastIndex(text, " ("); i >= 0 && strings.HasSuffix(text, ")") {
		return text[:i], text[i+len(" (") : len(text)-1]
	}
	return text, ""
}

// text returns the text of a scalar with its variables replaced, and whether it is bare: written
// without quotes or with variables, so that it may be a number. ok is false after a problem.
func (d *decoder) text(path string, n *yaml.Node, v reflect.Value) (text string, bare, ok bool) {
	if text, ok := endsInColon(n); ok {
		return text, true, true
	}
	if n.Kind != yaml.ScalarNode || isNull(n) {
		d.wrongf(path, n, scalarHint(n, v), "want a single value, got %s", describe(n))
		return "", false, false
	}
	if isWord(n) {
		if v.Kind() == reflect.String && !isText(v) && !isAddress.MatchString(path) {
			d.wrongf(path, n, "put it in quotes", "want a string, got %s", describe(n))
			return "", false, false
		}
		return n.Value, true, true
	}
	text, ok = d.expand(path, n)
	return text, isPlain(n) || text != n.Value, ok
}

// variables matches what begins with a dollar in a value, and oneVariable a proper variable.
var (
	variables   = regexp.MustCompile(`\$\$|\$\{[^}]*\}?|\$[A-Za-z_(][A-Za-z0-9_]*`)
	oneVariable = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)\}$`)
)

// expand returns the text of n with ${NAME} replaced by the environment's value, and $$ by a
// dollar.
func (d *decoder) expand(path string, n *yaml.Node) (expanded string, ok bool) {
	ok = true
	size := 0
	refuse := func(hint, format string, args ...any) string {
		d.wrongf(path, n, hint, format, args...)
		ok = false
		return ""
	}
	expanded = variables.ReplaceAllStringFunc(n.Value, func(match string) string {
		if match == "$$" {
			return "$"
		}
		m := oneVariable.FindStringSubmatch(match)
		if m == nil {
			return refuse("write ${NAME}, or $$ for a dollar", "a dollar that begins no variable")
		}
		value, set := d.lookupEnv(m[1])
		switch size += len(value); {
		case size > MaxSize:
			return ""
		case !set:
			return refuse("export "+m[1]+"=… (for the service: systemctl edit prefixproxy: [Service] Environment="+m[1]+"=…), or write $"+match+" for a literal "+match, "the environment variable %s is not set", m[1])
		case !utf8.ValidString(value):
			return refuse("export "+m[1]+"=… in UTF-8", "the environment variable %s is not UTF-8", m[1])
		}
		if ip, err := netip.ParseAddr(value); err == nil && ip.Is6() && strings.Contains(n.Value, "://"+match) {
			return "[" + value + "]"
		}
		return value
	})
	if size > MaxSize {
		refuse("shorten it", "with its variables replaced, it is larger than %v", conf.Bytes(MaxSize))
	}
	return expanded, ok
}

// addf appends a problem with the value at path, which is in the file at at.
func (d *decoder) addf(path string, at place, hint, format string, args ...any) {
	d.problems = append(d.problems, problem{Problem: conf.Problem{Path: path, Text: fmt.Sprintf(format, args...), Hint: hint}, at: at})
}

// wrongf appends a problem with the value n at path, which could not be read.
func (d *decoder) wrongf(path string, n *yaml.Node, hint, format string, args ...any) {
	at := placeOf(n)
	if isMissing(n) {
		at = d.places[path]
	}
	d.skip(path)
	d.addf(path, at, hint, format, args...)
}

// add appends the problems that a package has found in its values, except for those that only follow
// from a value that could not be read.
func (d *decoder) add(ps conf.Problems) {
	_, listed := d.places[carbonPath+"[0]"]
	for _, p := range ps {
		if rest, ok := strings.CutPrefix(p.Path, carbonPath+"."); ok && listed { // the only one in a list
			p.Path = carbonPath + "[0]." + rest
		} else if rest, ok := strings.CutPrefix(p.Path, carbonPath+"[0]."); ok && !listed {
			p.Path = carbonPath + "." + rest
		}
		if d.follows(p.Path) {
			continue
		}
		p.Text = concealed(p.Path, p.Text)
		d.problems = append(d.problems, problem{Problem: p, at: d.nearest(p.Path)})
	}
}

// skip notes that the value at path could not be read.
func (d *decoder) skip(path string) {
	for outer := range outward(path) {
		d.unread[outer] = d.unread[outer] || outer == path
	}
}

// follows reports whether a value that could not be read is at path, around it, or in it.
func (d *decoder) follows(path string) bool {
	if _, within := d.unread[path]; within {
		return true
	}
	for outer := range outward(path) {
		if d.unread[outer] {
			return true
		}
	}
	return false
}

// nearest returns the place of the value at path or, if the file does not contain it, of the nearest
// section around it.
func (d *decoder) nearest(path string) place {
	for outer := range outward(path) {
		if at, ok := d.places[outer]; ok {
			return at
		}
	}
	return place{}
}

// outward yields path and those of the sections and lists around it, up to that of the file, "".
func outward(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for yield(path) && path != "" {
			path = path[:max(strings.LastIndexAny(path, ".["), 0)]
		}
	}
}

// A field is a key and its value.
type field struct {
	key   string
	value reflect.Value
}

// fields returns the fields of the struct v in order, with those of an inline struct in its place.
func fields(v reflect.Value) (all []field) {
	for f, value := range v.Fields() {
		switch key := f.Tag.Get("yaml"); key {
		case "-":
		case ",inline":
			all = append(all, fields(value)...)
		default:
			all = append(all, field{key, value})
		}
	}
	return all
}

// keys returns the keys of the struct v, in order.
func keys(v reflect.Value) (all []string) {
	for _, f := range fields(v) {
		all = append(all, f.key)
	}
	return all
}

// values returns the values in the section v, which path names, with their own paths for keys.
func values(path string, v reflect.Value) (all []field) {
	for _, f := range fields(v) {
		f.key = join(path, f.key)
		if f.key == carbonPath && isAlone(f.value) {
			f.value = f.value.Index(0)
		}
		if f.value.Kind() == reflect.Struct && !isText(f.value) {
			all = append(all, values(f.key, f.value)...)
		} else {
			all = append(all, f)
		}
	}
	return all
}

// isText reports whether v is an encoding.TextUnmarshaler.
func isText(v reflect.Value) bool {
	return reflect.PointerTo(v.Type()).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// join returns the path of a key below path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// within reports whether inner is outer or below it.
func within(inner, outer string) bool {
	rest, ok := strings.CutPrefix(inner, outer)
	return ok && (rest == "" || outer == "" || rest[0] == '.' || rest[0] == '[')
}

// valuePlace returns where a person looks for an entry: at its value, but at its key if the value is
// a section, a list or missing.
func valuePlace(key, value *yaml.Node) place {
	if value.Kind == yaml.ScalarNode && !isMissing(value) {
		return placeOf(value)
	}
	return placeOf(key)
}

// describe names the kind of a value, for people.
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a section"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias"
	case isNull(n):
		return "nothing"
	case n.ShortTag() == "!!int":
		return "a number"
	case n.ShortTag() == "!!float":
		return "a fraction"
	case n.ShortTag() == "!!bool":
		return "a boolean"
	}
	return "text"
}
