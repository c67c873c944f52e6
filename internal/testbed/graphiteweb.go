package testbed

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// A graphiteWeb is a real graphite-web, which draws what a carbon-cache has stored.
type graphiteWeb struct {
	URL string // without a slash at its end
	*process
}

// graphiteServer serves graphite-web: its database is made first.
const graphiteServer = `
import sys, wsgiref.simple_server as simple
import django
django.setup()
from django.core.management import call_command
call_command('migrate', run_syncdb=True, verbosity=0)
from graphite.wsgi import application
class Handler(simple.WSGIRequestHandler):
    def log_message(self, *args): pass
simple.make_server('127.0.0.1', int(sys.argv[1]), application, handler_class=Handler).serve_forever()
`

// startGraphiteWeb starts a graphite-web over what carbon stores, and waits until it
// listens.
func startGraphiteWeb(t testing.TB, carbon *carbonCache) *graphiteWeb {
	t.Helper()
	lookPath(t, "graphite-manage", "graphite-web")
	python := lookPath(t, "/usr/bin/python3", "python3")
	dir := t.TempDir()
	settings := fmt.Sprintf(`
SECRET_KEY = 'of a test'
ALLOWED_HOSTS = ['*']
TIME_ZONE = 'Europe/Berlin'
LOG_ROTATION = False
STORAGE_DIR = LOG_DIR = %q
WHISPER_DIR = %q
STANDARD_DIRS = [WHISPER_DIR]
CARBONLINK_HOSTS = []
DATABASES = {'default': {'NAME': %q, 'ENGINE': 'django.db.backends.sqlite3'}}
FUNCTION_PLUGINS = []
`, dir, filepath.Join(carbon.dir, "whisper"), filepath.Join(dir, "graphite.db"))
	writeFile(t, settings, dir, "graphite_of_test.py")
	if err := os.MkdirAll(filepath.Join(carbon.dir, "whisper"), 0o700); err != nil {
		t.Fatal(err)
	}
	port := sidebyside.FreePort(t)
	cmd := exec.Command(python, "-W", "ignore", "-c", graphiteServer, fmt.Sprint(port))
	cmd.Env = append(os.Environ(), "PYTHONPATH="+dir, "DJANGO_SETTINGS_MODULE=graphite.settings", "GRAPHITE_SETTINGS_MODULE=graphite_of_test")
	g := &graphiteWeb{URL: fmt.Sprintf("http://127.0.0.1:%d", port), process: start(t, cmd)}
	awaitListening(t, g.process, g.URL[len("http://"):])
	return g
}

// A rendered is a series as graphite-web draws it.
type rendered struct {
	Target string `json:"target"`
	Points []drawn
}

// A drawn is a point; Value is nil where there is none.
type drawn struct {
	Time  int64
	Value *float64
}

// Render returns what graphite-web draws of a target from a time until another, in Unix
// seconds: points behind the one, up to the other.
func (g *graphiteWeb) Render(t testing.TB, target string, from, until int64) []rendered {
	t.Helper()
	body := g.get(t, "/render?"+url.Values{
		"target": {target}, "from": {fmt.Sprint(from)}, "until": {fmt.Sprint(until)}, "format": {"json"}, "noCache": {"1"},
	}.Encode())
	var answer []struct {
		Target     string        `json:"target"`
		Datapoints [][2]*float64 `json:"datapoints"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("render %s: %v\n%s", target, err, body)
	}
	series := make([]rendered, len(answer))
	for i, a := range answer {
		series[i].Target = a.Target
		for _, p := range a.Datapoints {
			series[i].Points = append(series[i].Points, drawn{Time: int64(*p[1]), Value: p[0]})
		}
	}
	return series
}

// tagSeries tells graphite-web of series with tags, in one request, as carbon does where
// it is told to, and returns the status of the answer.
func (g *graphiteWeb) tagSeries(t testing.TB, paths ...string) int {
	t.Helper()
	resp, err := http.PostForm(g.URL+"/tags/tagMultiSeries", url.Values{"path": paths})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// get returns what graphite-web answers to a request for path.
func (g *graphiteWeb) get(t testing.TB, path string) []byte {
	t.Helper()
	resp, err := http.Get(g.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v\n%s", path, resp.Status, err, body)
	}
	return body
}
