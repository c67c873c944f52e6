//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
)

// Between these lines a page has the tables of the last run.
const (
	tablesBegin = "<!-- tables: go run ./internal/bench -markdown docs/PERFORMANCE.md -->\n"
	tablesEnd   = "<!-- end of tables -->\n"
)

// A page is a Markdown file with a place for the tables.
type page struct {
	path          string
	before, after []byte // with the lines that mark the place
}

// readPage reads a page. It is read before anything is measured: five minutes
// later is late for a spelling mistake.
func readPage(path string) (*page, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	before, rest, begins := bytes.Cut(text, []byte(tablesBegin))
	_, after, ends := bytes.Cut(rest, []byte(tablesEnd))
	if !begins || !ends {
		return nil, fmt.Errorf("%s has no place for tables, between %q and %q", path, tablesBegin, tablesEnd)
	}
	return &page{path: path, before: append(before, tablesBegin...), after: append([]byte(tablesEnd), after...)}, nil
}

// write writes the page with the tables of a report.
func (p *page) write(r *Report) error {
	var text bytes.Buffer
	text.Write(p.before)
	r.write(&text, (*table).markdown)
	text.Write(p.after)
	return os.WriteFile(p.path, text.Bytes(), 0o644)
}
