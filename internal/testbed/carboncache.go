package testbed

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// A carbonCache is Graphite's receiver: a real carbon-cache that stores a point
// a second for an hour of every metric.
type carbonCache struct {
	Addr string // of its line receiver, whether it runs or not
	dir  string
	*process
}

// newCarbonCache returns a carbon-cache that has not started; Start starts it.
// settings are lines for its configuration; where there are none, it stores as
// fast as it can.
func newCarbonCache(t testing.TB, settings ...string) *carbonCache {
	t.Helper()
	lookPath(t, "carbon-cache", "graphite-carbon")
	if settings == nil {
		settings = []string{"MAX_CREATES_PER_MINUTE = inf", "MAX_UPDATES_PER_SECOND = inf"}
	}
	c := &carbonCache{Addr: fmt.Sprintf("127.0.0.1:%d", sidebyside.FreePort(t)), dir: t.TempDir()}
	_, port, _ := net.SplitHostPort(c.Addr)
	c.write(t, "carbon.conf", `[cache]
STORAGE_DIR = `+c.dir+`
CONF_DIR = `+c.dir+`
LOG_DIR = `+c.dir+`
PID_DIR = `+c.dir+`
LOCAL_DATA_DIR = `+filepath.Join(c.dir, "whisper")+`
USER =
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = `+port+`
PICKLE_RECEIVER_PORT = 0
CACHE_QUERY_INTERFACE = 127.0.0.1
CACHE_QUERY_PORT = 0
CARBON_METRIC_INTERVAL = 0
LOG_CREATES = True
`+strings.Join(settings, "\n")+"\n")
	c.retain(t, "1s:1h")
	return c
}

// retain sets what is stored of each metric, before the start.
func (c *carbonCache) retain(t testing.TB, retentions string) {
	t.Helper()
	c.write(t, "storage-schemas.conf", "[all]\npattern = .*\nretentions = "+retentions+"\n")
}

func (c *carbonCache) write(t testing.TB, name, text string) {
	t.Helper()
	writeFile(t, text, c.dir, name)
}

// Start starts the server and waits until it listens.
func (c *carbonCache) Start(t testing.TB) {
	t.Helper()
	c.process = start(t, exec.Command("carbon-cache", "--config", filepath.Join(c.dir, "carbon.conf"),
		"--pidfile", filepath.Join(c.dir, "pid"), "--nodaemon", "start"))
	awaitListening(t, c.process, c.Addr)
}

// Has says whether there is anything below a metric path, like "host".
func (c *carbonCache) Has(path ...string) bool {
	_, err := os.Stat(filepath.Join(append([]string{c.dir, "whisper"}, path...)...))
	return err == nil
}

// Points returns what is stored of a metric, given by its nodes; nothing while
// its file is not there, or not whole.
func (c *carbonCache) Points(t testing.TB, path ...string) []archivePoint {
	t.Helper()
	points, err := readWhisper(filepath.Join(append([]string{c.dir, "whisper"}, path...)...) + ".wsp")
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF): // being made
	case err != nil:
		t.Fatal(err)
	}
	return points
}

// AwaitValue waits until a metric has the value at a time in Unix seconds.
func (c *carbonCache) AwaitValue(t testing.TB, at int64, want float64, path ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q at %d", path, at), func() error {
		points := c.Points(t, path...)
		for _, p := range points {
			if p.Time == at && p.Value == want {
				return nil
			}
		}
		return fmt.Errorf("got %v, want %s", points, strconv.FormatFloat(want, 'g', -1, 64))
	})
}

// AwaitSum waits until the values of a metric add up to want.
func (c *carbonCache) AwaitSum(t testing.TB, want float64, path ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q", path), func() error {
		var sum float64
		for _, p := range c.Points(t, path...) {
			sum += p.Value
		}
		if sum != want {
			return fmt.Errorf("got a sum of %v, want %v", sum, want)
		}
		return nil
	})
}
