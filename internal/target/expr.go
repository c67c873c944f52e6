package target

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// A part is a piece of a Graphite expression: series of a host, or text that stays
// as it is.
type part struct {
	text     string // where isSeries is not set
	isSeries bool
	before   string // what stands before the nodes that stand for the name
	after    string // and behind them
	at       int    // how many nodes stand before them
	below    int    // and behind them
	whole    bool   // their whole names tell its series apart: there are tags, or any number of nodes (**)
	pattern  bool   // it is a regular expression
}

// An Expr is a Graphite expression, taken apart.
type Expr []part

// Parse takes a Graphite expression apart, as graphite-web's grammar has it. from are
// the nodes that stand for the name. What is not one whole expression is refused: it may be
// put into another one.
func Parse(expr, from string) (Expr, error) {
	expr = strings.Trim(expr, " \t\r\n")
	p := exprParser{expr: expr, from: strings.Split(from, ".")}
	switch ok := utf8.ValidString(expr) && p.expression(); {
	case expr == "":
		return nil, errors.New("there is no expression")
	case !ok && p.at == len(expr):
		return nil, fmt.Errorf("%q is no Graphite expression: it ends too early", expr)
	case !ok || p.at < len(expr):
		return nil, fmt.Errorf("%q is no Graphite expression: something is wrong at %q", expr, expr[p.at:])
	case len(p.parts) == 0:
		return nil, fmt.Errorf("%q has no path below %s", expr, from)
	}
	p.takeText(len(expr))
	return p.parts, nil
}

// An exprParser reads an expression from left to right. What it has not made a part of by
// then is text. Its methods say whether they found what they are to read.
type exprParser struct {
	expr  string
	from  []string
	at    int // is read up to here
	begin int // of what was read last
	taken int // is in parts up to here
	parts Expr
}

// take makes what is read from start on a part, and what stands before it text.
func (p *exprParser) take(start int, series part) {
	p.takeText(start)
	p.parts, p.taken = append(p.parts, series), p.at
}

func (p *exprParser) takeText(end int) {
	if p.taken < end {
		p.parts = append(p.parts, part{text: oneLine(p.expr[p.taken:end])})
	}
}

// oneLine returns s without line breaks, which are like other blanks to graphite-web.
func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

// The words of the grammar, behind blanks.
var (
	opening  = lexeme(`[(]`)
	closing  = lexeme(`[)]`)
	comma    = lexeme(`,`)
	pipe     = lexeme(`[|]`)
	function = lexeme(`[A-Za-z_][A-Za-z0-9_]*[ \t\r\n]*[(]`)
	argument = lexeme(`[A-Za-z_][A-Za-z0-9_]*[ \t\r\n]*=`)
	quoted   = lexeme(`"(?:[^"\\\r\n]|\\.|"")*"|'(?:[^'\\\r\n]|\\.|'')*'`)

	// A path, a name or a number: \pC and \pZ cannot be printed; in braces is no dot.
	word = lexeme(`(?:[^(){},|'"\\\pC\pZ]|\\[^\pC\pZ]|[{](?:[^(){}.|'"\\\pC\pZ]|\\[^\pC\pZ])*[}])+`)
)

func lexeme(form string) *regexp.Regexp { return regexp.MustCompile(`^[ \t\r\n]*(` + form + `)`) }

// next reads what form finds.
func (p *exprParser) next(form *regexp.Regexp) bool {
	m := form.FindStringSubmatchIndex(p.expr[p.at:])
	if m != nil {
		p.begin, p.at = p.at+m[2], p.at+m[3]
	}
	return m != nil
}

// expression reads a path or a call, and what it is piped into.
func (p *exprParser) expression() bool {
	if !p.next(word) {
		return false
	}
	start, name := p.begin, p.expr[p.begin:p.at]
	if p.next(opening) {
		if !p.call(start, name) {
			return false
		}
	} else if series, ok := p.path(name); ok {
		p.take(start, series)
	}
	for p.next(pipe) {
		if !p.next(function) || !p.call(0, "") {
			return false
		}
	}
	return true
}

// call reads what is in the parentheses of a function, which stands at start, and their end.
func (p *exprParser) call(start int, name string) bool {
	var texts [][2]int // where they are, without their quotes
	for first := true; !p.next(closing); first = false {
		if !first && !p.next(comma) {
			return false
		}
		p.next(argument)
		if p.next(quoted) {
			texts = append(texts, [2]int{p.begin + 1, p.at - 1})
		} else if !p.expression() {
			return false
		}
	}
	if name == "seriesByTag" {
		for _, t := range texts {
			if series, ok := p.byTag(start, t[0], t[1]); ok {
				p.take(start, series)
				break
			}
		}
	}
	return true
}

// path returns the series of a path whose nodes from are whole nodes of it, with some
// below; they lead it, or stand behind the prefixes that statsd puts before all.
func (p *exprParser) path(word string) (series part, ok bool) {
	name, _, tagged := strings.Cut(word, ";")
	nodes := strings.Split(name, ".")
	if slices.Contains(nodes, "") {
		return part{}, false
	}
	for i := 0; i+len(p.from) < len(nodes) && (i == 0 || nodes[i-1] != "**"); i++ {
		if slices.Equal(nodes[i:i+len(p.from)], p.from) {
			before := strings.Join(append(slices.Clone(nodes[:i]), ""), ".")
			return part{
				isSeries: true, before: before, after: word[len(before)+len(strings.Join(p.from, ".")):],
				at: i, below: len(nodes) - i - len(p.from), whole: tagged || slices.Contains(nodes, "**"),
			}, true
		}
	}
	return part{}, false
}

// byTag returns the series of a seriesByTag that begins at start and has just been read, if
// its argument from begin to end is the name of series below from.
func (p *exprParser) byTag(start, begin, end int) (series part, ok bool) {
	key, name, _ := strings.Cut(p.expr[begin:end], "=")
	dot := `\.`
	if series.pattern = strings.HasPrefix(name, "~"); series.pattern {
		dot = `(?:\\\.|\[\.\]|\.)`
	}
	quoted := make([]string, len(p.from))
	for i, node := range p.from {
		quoted[i] = regexp.QuoteMeta(node)
	}
	form := regexp.MustCompile(`^(~?\^?(?:[A-Za-z0-9_-]+` + dot + `)*?)` + strings.Join(quoted, dot) + `(` + dot + `[^;]+)$`)
	m := form.FindStringSubmatch(name)
	if key != "name" || m == nil {
		return part{}, false
	}
	series.isSeries, series.whole = true, true
	series.before, series.after = oneLine(p.expr[start:begin])+"name="+m[1], m[2]+oneLine(p.expr[end:p.at])
	series.at = len(regexp.MustCompile(dot).FindAllString(m[1], -1))
	return series, true
}

// Render returns the expression, with the series of all spans in the place of each part
// that is the host's. to is rewrite.to; step is the time between two points, in seconds.
func (ps Expr) Render(spans []Span, to, owner string, step int64) string {
	var b strings.Builder
	for _, p := range ps {
		switch {
		case !p.isSeries:
			b.WriteString(p.text)
		case p.whole:
			p.followWhole(&b, spans, to, owner, step)
		default:
			p.follow(&b, spans, to, owner, step)
		}
	}
	return b.String()
}

// follow writes the series of all spans as one:
//
//	aliasSub(groupByNodes(group(
//	  timeSlice(Denali.cpu,'…','…'),timeSlice(MtLogan.cpu,'…')),'last',1),'^','web17.')
func (p part) follow(b *strings.Builder, spans []Span, to, owner string, step int64) {
	own, place := nodesOf(to)
	b.WriteString("aliasSub(groupByNodes(")
	p.group(b, spans, to, step)
	b.WriteString(",'last'")
	for i := range p.at + own + p.below {
		if i != p.at+place {
			fmt.Fprintf(b, ",%d", i)
		}
	}
	if at := p.at + place; at == 0 {
		fmt.Fprintf(b, "),'^','%s.')", labelOf(owner))
	} else {
		fmt.Fprintf(b, `),'^(([^.]*[.]){%d})','\g<1>%s.')`, at, labelOf(owner))
	}
}

// followWhole writes the series of all spans as one for each of their names. groupByNodes
// knows no tags and no nodes that it is not told: so names are made one node each, and unmade.
func (p part) followWhole(b *strings.Builder, spans []Span, to, owner string, step int64) {
	_, place := nodesOf(to)
	b.WriteString(strings.Repeat("aliasSub(", 2) + "groupByNodes(" + strings.Repeat("aliasSub(", 3))
	p.group(b, spans, to, step)
	fmt.Fprintf(b, `,'^timeSlice[(](([^.;]*[.]){%d})[^.;]*(.*), [0-9]+, [0-9]+[)]$','\g<1>%s\g<3>')`, p.at+place, labelOf(owner))
	b.WriteString(`,'[.]','~d~'),';','~s~'),'last',0),'~d~','.'),'~s~',';')`)
}

// group writes the series of all spans, each cut to it. timeSlice of graphite-web takes the
// time of the i-th point to be the graph's begin and i steps, which is before the point's
// own by a second to a step, as the begin lies in its step.
func (p part) group(b *strings.Builder, spans []Span, to string, step int64) {
	if p.pattern {
		to = strings.ReplaceAll(to, ".", "[.]")
	}
	b.WriteString("group(")
	for i, s := range spans {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(b, "timeSlice(%s%s%s,'%d'", p.before, strings.ReplaceAll(to, "{name}", s.Name), p.after, max(s.From-step, 0))
		if s.To != math.MaxInt64 {
			fmt.Fprintf(b, ",'%d'", max(s.To-1, 0))
		}
		b.WriteByte(')')
	}
	b.WriteByte(')')
}

// nodesOf returns how many nodes rewrite.to has, and which one holds the name.
func nodesOf(to string) (n, place int) {
	nodes := strings.Split(to, ".")
	return len(nodes), slices.IndexFunc(nodes, func(node string) bool { return strings.Contains(node, "{name}") })
}

// labelOf keeps what is safe in a node, and in a replacement: an owner is any printable
// text.
func labelOf(owner string) string { return unsafeInLabel.ReplaceAllString(owner, "_") }

var unsafeInLabel = regexp.MustCompile(`[^A-Za-z0-9_-]`)
