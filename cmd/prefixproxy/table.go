package main

import (
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// A table is what people get: rows of cells, the titles first. A pipe gets all of it. For
// a terminal it is made to fit: times lose their zone, which is the local one, then columns
// that can be spared are left out, owners are cut, and at last lines.
type table struct {
	rows  [][]string
	owner int   // the column of owners
	spare []int // columns that may be left out, in that order
}

// leastOwner is how many characters of an owner are shown before columns are left out.
const leastOwner = 12

func (t table) write(w io.Writer) error {
	_, err := io.WriteString(w, t.text(columnsOf(w)))
	return err
}

// text returns the lines of the table; columns is 0 where it goes to no terminal.
func (t table) text(columns int) string {
	if columns > 0 {
		t.fit(columns)
	}
	widths := t.widths()
	var b strings.Builder
	for _, row := range t.rows {
		line := ""
		for i, cell := range row {
			line += cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
		}
		if line = strings.TrimRight(line, " "); columns > 0 {
			line = shorten(line, columns)
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// fit makes the table no wider than columns, as far as that is possible.
func (t *table) fit(columns int) {
	tooWide := t.width() > columns
	for i, row := range t.rows {
		t.rows[i] = slices.Clone(row)
		for n, cell := range row {
			if when, err := time.Parse(time.RFC3339, cell); err == nil && tooWide {
				t.rows[i][n] = when.Format("2006-01-02T15:04:05")
			}
		}
	}
	for _, column := range t.spare {
		if t.width()-max(t.widths()[t.owner]-leastOwner, 0) <= columns {
			break
		}
		for i, row := range t.rows {
			t.rows[i] = slices.Delete(row, column, column+1)
		}
	}
	if over := t.width() - columns; over > 0 {
		room := max(t.widths()[t.owner]-over, leastOwner)
		for _, row := range t.rows {
			row[t.owner] = shorten(row[t.owner], room)
		}
	}
}

func (t table) widths() []int {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

func (t table) width() (sum int) {
	for _, n := range t.widths() {
		sum += n + 2
	}
	return sum - 2
}

// shorten returns at most room characters of s.
func shorten(s string, room int) string {
	if runes := []rune(s); len(runes) > room {
		return string(runes[:max(room-1, 0)]) + "…"
	}
	return s
}

// columnsOf returns the width of the terminal that w is; 0: it is none.
func columnsOf(w io.Writer) int {
	file, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}
