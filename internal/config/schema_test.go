package config

import (
	"encoding"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

var update = flag.Bool("update", false, "write docs/config.schema.json")

// docs/config.schema.json, which is for editors, agrees with the structs.
func TestSchema(t *testing.T) {
	g := schemaWriter{comments: fieldComments(t)}
	schema := g.of("", reflect.ValueOf(Default()))
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "Configuration of prefixproxy"
	got, err := json.MarshalIndent(schema, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	file := filepath.Join("..", "..", "docs", "config.schema.json")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, _ := os.ReadFile(file); string(want) != string(got) {
		t.Errorf("%s does not agree with the structs: go test ./internal/config -run TestSchema -update", file)
	}
}

// Editors accept what the documents show.
func TestSchemaFitsDocuments(t *testing.T) {
	text, err := os.ReadFile("../../docs/config.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config.example.yaml", "README.md", "docs/OPERATIONS.md", "deploy/debian/debian/config.yaml", "deploy/kubernetes/config.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		files := []string{string(text)}
		if strings.HasSuffix(name, ".md") {
			files = nil
			for _, block := range regexp.MustCompile("(?m)^```yaml\n((?s:.*?))```$").FindAllStringSubmatch(string(text), -1) {
				files = append(files, block[1])
			}
		}
		for _, file := range files {
			var value any
			if err := yaml.Unmarshal([]byte(file), &value); err != nil {
				t.Fatal(err)
			}
			if why := s.misfit("", value); why != "" {
				t.Errorf("%s: the schema refuses %s:\n%s", name, why, file)
			}
		}
	}
}

// misfit returns the path of what the schema does not allow in a value; "" if it allows all.
func (s schema) misfit(path string, value any) string {
	if among, ok := s["anyOf"].([]any); ok {
		misfits := make([]string, len(among))
		for i, one := range among {
			if misfits[i] = schema(one.(map[string]any)).misfit(path, value); misfits[i] == "" {
				return ""
			}
		}
		return strings.Join(misfits, ", ")
	}
	if words, ok := s["enum"].([]any); ok && !slices.Contains(words, value) {
		return path
	}
	if only, ok := s["const"]; ok && fmt.Sprint(only) != fmt.Sprint(value) {
		return path
	}
	if !s.allows(value) {
		return path
	}
	switch value := value.(type) {
	case []any:
		items := schema(s["items"].(map[string]any))
		for i, element := range value {
			if why := items.misfit(fmt.Sprintf("%s[%d]", path, i), element); why != "" {
				return why
			}
		}
	case map[string]any:
		properties := s["properties"].(map[string]any)
		for key, inner := range value {
			property, ok := properties[key].(map[string]any)
			if !ok {
				return join(path, key)
			}
			if why := schema(property).misfit(join(path, key), inner); why != "" {
				return why
			}
		}
	}
	return ""
}

// allows reports whether a value has the type and the form that the schema wants.
func (s schema) allows(value any) bool {
	if s["type"] == nil {
		return true
	}
	is := map[string]bool{"null": value == nil}
	switch value := value.(type) {
	case string:
		pattern, _ := s["pattern"].(string)
		is["string"] = regexp.MustCompile(pattern).MatchString(value)
	case bool:
		is["boolean"] = true
	case int:
		is["integer"], is["number"] = true, true
	case float64:
		is["number"] = true
	case []any:
		is["array"] = true
	case map[string]any:
		is["object"] = true
	}
	for _, one := range strings.Fields(strings.Trim(fmt.Sprint(s["type"]), "[]")) {
		if is[one] {
			return true
		}
	}
	return false
}

// A schemaWriter makes a JSON schema of a configuration.
type schemaWriter struct{ comments map[string]string } // by type and field

type schema map[string]any

// variable is a value that the environment gives.
var variable = schema{"type": "string", "pattern": `\$\{[A-Za-z_][A-Za-z0-9_]*\}`}

// oneOf is the schema of a word, of which the first is the default.
func oneOf(words ...string) schema {
	return schema{"default": words[0], "anyOf": []any{schema{"enum": words}, variable}}
}

// upstream is the schema of an address, which may be one of some words and a colon: a key without a
// value, to YAML.
func upstream(words ...string) schema {
	keys := schema{}
	for _, word := range words {
		keys[word] = schema{"type": "null"}
	}
	return schema{"anyOf": []any{
		schema{"type": "string"},
		schema{"type": "object", "properties": keys, "additionalProperties": false},
	}}
}

// of is the schema of the value at path, whose default v is.
func (g schemaWriter) of(path string, v reflect.Value) schema {
	switch path {
	case namesPath:
		return schema{"default": "mountains", "anyOf": []any{
			schema{"const": "mountains"}, variable,
			schema{"type": "array", "items": schema{"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}},
			g.section(path, reflect.ValueOf(numbered{})),
		}}
	case carbonPath:
		one := g.section(path, v.Index(0))
		return schema{"anyOf": []any{one, schema{"type": "array", "items": one}}}
	case "rewrite.unmatched":
		return oneOf("forward", "prefix", "drop")
	case "membership.on_stop":
		return oneOf("release", "keep")
	case "aggregate.layout":
		return oneOf("plain", "statsd", "legacy")
	case "aggregate.tags":
		return oneOf("graphite", "drop")
	case "forward.statsd.to[]":
		return upstream("stdout", "carbon")
	case carbonPath + ".to[]":
		return upstream("stdout")
	}
	switch x := v.Interface().(type) {
	case conf.Bytes:
		return schema{"default": x.String(), "anyOf": []any{schema{"type": "integer", "minimum": 0}, schema{"type": "string", "pattern": "^[0-9]+ ?([kMGT]?B|[KMGT]iB)?$"}, variable}}
	case time.Duration:
		return schema{"default": shortDuration(x), "anyOf": []any{schema{"const": 0}, schema{"type": "string", "pattern": `^([0-9.]+(ns|us|µs|ms|s|m|h))+$`}, variable}}
	case encoding.TextMarshaler:
		return schema{"type": "string"}
	}
	switch v.Kind() {
	case reflect.Struct:
		return g.section(path, v)
	case reflect.Slice:
		return schema{"type": "array", "items": g.of(path+"[]", reflect.New(v.Type().Elem()).Elem())}
	case reflect.Bool:
		return schema{"default": v.Bool(), "anyOf": []any{schema{"type": "boolean"}, variable}}
	case reflect.Float64:
		return schema{"anyOf": []any{schema{"type": "number"}, variable}}
	case reflect.Int:
		return schema{"default": v.Int(), "anyOf": []any{schema{"type": "integer"}, variable}}
	}
	return schema{"type": "string", "default": v.String()}
}

// section is the schema of a struct.
func (g schemaWriter) section(path string, v reflect.Value) schema {
	properties := schema{}
	g.add(properties, path, v)
	return schema{"type": []string{"object", "null"}, "additionalProperties": false, "properties": properties}
}

func (g schemaWriter) add(properties schema, path string, v reflect.Value) {
	for f, field := range v.Fields() {
		switch key := f.Tag.Get("yaml"); key {
		case "-":
		case ",inline":
			g.add(properties, path, field)
		default:
			s := g.of(join(path, key), field)
			if text := g.comments[v.Type().String()+"."+f.Name]; text != "" {
				s["description"] = text
			}
			properties[key] = s
		}
	}
}

// fieldComments returns the comments of all fields of configuration structs.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	comments := map[string]string{}
	for _, dir := range []string{"internal/config", "membership", "proxy", "internal/admin", "internal/aggregate", "internal/events", "internal/line", "internal/link"} {
		files, err := filepath.Glob(filepath.Join("..", "..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				spec, ok := n.(*ast.TypeSpec)
				if !ok {
					return true
				}
				if fields, ok := spec.Type.(*ast.StructType); ok {
					for _, f := range fields.Fields.List {
						for _, id := range f.Names {
							comments[file.Name.Name+"."+spec.Name.Name+"."+id.Name] = strings.Join(strings.Fields(f.Doc.Text()+" "+f.Comment.Text()), " ")
						}
					}
				}
				return true
			})
		}
	}
	return comments
}
