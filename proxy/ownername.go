package proxy

import (
	"bytes"
	"log/slog"
	"strings"
	"sync/atomic"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// An ownName finds out that an application puts the host's own name into the metrics
// that are written under the recycled one: each host would leave dead series again. It
// says so once.
type ownName struct {
	node []byte // ".foo-ns31"; nil: too short to tell
	said atomic.Bool
	log  *slog.Logger
}

func newOwnName(owner string, log *slog.Logger) *ownName {
	o := &ownName{log: log}
	if short, _, _ := strings.Cut(owner, "."); len(short) >= 4 {
		o.node = []byte("." + short)
	}
	return o
}

// look looks at the first line of what a read brought, which is enough in the long run:
// lines is rewritten by r. It reads lines.
func (o *ownName) look(lines []byte, r *rewriters) {
	if o.node == nil || len(lines) == 0 || o.said.Load() {
		return
	}
	ln, _, _ := line.Cut(lines)
	path := ln
	if end := bytes.IndexAny(ln, ": ;,#["); end >= 0 {
		path = ln[:end]
	}
	i := bytes.Index(path, o.node)
	if i < 0 || !r.owns(ln) {
		return
	}
	// collectd and others make foo-ns31_example_com of foo-ns31.example.com.
	if rest := path[i+len(o.node):]; len(rest) > 0 && rest[0] != '.' && rest[0] != '_' {
		return
	}
	if !o.said.Swap(true) {
		o.log.Warn("an application writes this host's own name below the recycled one: its series die with the host",
			"path", strings.TrimPrefix(string(path), line.Mark+"."), "hint", "leave the host name out in the application; docs/RECIPES.md says how for collectd, Telegraf and others")
	}
}
