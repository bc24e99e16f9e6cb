package timeline

import (
	"fmt"
	"html"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Sizes of the picture in pixels.
const (
	minWidth, maxWidth = 1280, 4000
	perSecond          = 3 // a second is at least as wide, up to maxWidth
	gutter             = 92
	margin             = 64  // on the right, for the last slanted label
	head               = 104 // for the slanted labels
	rowHeight, rowGap  = 16, 3
	groupHead          = 18
	chartHead          = 24
	chartHeight        = 54
	axisHeight         = 22
	slant              = 60 // degrees
	labelGap           = 14 // between two slanted labels, so that they stand clear of each other
	letter             = 6  // width of a letter of a label
	minSpan            = 1.2
)

// picture is an SVG that is being written.
type picture struct {
	strings.Builder
	m             Model
	width, height float64
	x0, x1        float64 // of the axis
	bottom        float64 // where the rows and charts end
}

// SVG draws the model as one svg element, which carries no style: its classes
// are the looks. Everything that is told where the pointer is, is a title element.
func (m Model) SVG() string {
	wanted := max(perSecond*m.Length.Seconds(), float64(labelGap*len(m.Faults)))
	p := &picture{m: m, width: min(maxWidth, max(minWidth, gutter+wanted+margin))}
	p.x0, p.x1 = gutter, p.width-margin
	p.bottom = head
	for _, g := range m.Groups {
		p.bottom += groupHeight(g)
	}
	p.bottom += float64(len(m.Charts)) * (chartHead + chartHeight)
	p.height = p.bottom + axisHeight
	p.printf(`<svg xmlns="http://www.w3.org/2000/svg" class="timeline" role="img" aria-label="timeline of the run" width="%s" height="%s" viewBox="0 0 %s %s">`+"\n",
		num(p.width), num(p.height), num(p.width), num(p.height))
	p.axis()
	p.faults()
	y := float64(head)
	for _, g := range m.Groups {
		y = p.group(g, y)
	}
	for _, c := range m.Charts {
		y = p.chart(c, y)
	}
	p.printf("</svg>\n")
	return p.String()
}

func (p *picture) printf(format string, args ...any) { fmt.Fprintf(p, format, args...) }

// num is a coordinate with one decimal, at most.
func num(v float64) string {
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
}

// x is where a time is on the axis.
func (p *picture) x(t time.Duration) float64 {
	if p.m.Length <= 0 {
		return p.x0
	}
	return p.x0 + (p.x1-p.x0)*t.Seconds()/p.m.Length.Seconds()
}

func groupHeight(g Group) float64 {
	h := float64(len(g.Rows) * (rowHeight + rowGap))
	if g.Name != "" {
		h += groupHead
	}
	return h
}

// step is the time between two marks of the axis.
func (p *picture) step() time.Duration {
	const apart = 56 // pixels, at least
	for _, s := range []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute} {
		if p.x(s)-p.x0 >= apart {
			return s
		}
	}
	return 5 * time.Minute
}

func (p *picture) axis() {
	p.printf(`<g class="axis">`)
	step := p.step()
	for t := time.Duration(0); t <= p.m.Length; t += step {
		x := num(p.x(t))
		p.printf(`<path d="M%s %dV%s"/><text x="%s" y="%s">%s</text>`, x, head, num(p.bottom+4), x, num(p.bottom+16), clock(t))
	}
	p.printf("</g>\n")
}

// clock is minutes and seconds.
func clock(t time.Duration) string {
	return fmt.Sprintf("%d:%02d", int(t.Minutes()), int(t.Seconds())%60)
}

// faults are bands over all rows, each with a slanted label.
func (p *picture) faults() {
	least := 0.0
	for _, f := range p.m.Faults {
		x, heal, end := p.x(f.Begin), p.x(f.Heal), p.x(f.End)
		at := max(x+3, least)
		least = at + labelGap
		p.printf(`<g class="fault"><title>%s</title><rect class="force" x="%s" y="%d" width="%s" height="%s"/>`, html.EscapeString(f.Title),
			num(x), head, num(max(minSpan, heal-x)), num(p.bottom-head))
		p.printf(`<rect class="after" x="%s" y="%d" width="%s" height="%s"/>`, num(heal), head, num(max(0, end-heal)), num(p.bottom-head))
		p.printf(`<path d="M%s %dL%s %d"/>`, num(x), head, num(at), head-7)
		p.printf(`<text transform="translate(%s %d) rotate(-%d)">%s</text></g>`+"\n", num(at+2), head-9, slant, html.EscapeString(f.Name))
	}
}

func (p *picture) group(g Group, y float64) float64 {
	if g.Name != "" {
		p.printf(`<text class="head" x="%d" y="%s">%s</text>`+"\n", 0, num(y+groupHead-5), html.EscapeString(g.Name))
		y += groupHead
	}
	for _, r := range g.Rows {
		p.row(r, y)
		y += rowHeight + rowGap
	}
	return y
}

func (p *picture) row(r Row, y float64) {
	p.printf(`<g><text class="name" x="%d" y="%s">%s</text><rect class="lane" x="%s" y="%s" width="%s" height="%d"/>`, gutter-8, num(y+rowHeight-4),
		html.EscapeString(r.Name), num(p.x0), num(y), num(p.x1-p.x0), rowHeight)
	for _, s := range r.Spans {
		x := p.x(s.From)
		w := max(minSpan, p.x(s.To)-x)
		p.printf(`<rect class="%s" x="%s" y="%s" width="%s" height="%d"><title>%s</title></rect>`, s.Look, num(x), num(y), num(w), rowHeight, html.EscapeString(s.Title))
		if s.Label != "" && w >= float64(len(s.Label)*letter+6) {
			p.printf(`<text class="on-%s" x="%s" y="%s">%s</text>`, s.Look, num(x+4), num(y+rowHeight-4), html.EscapeString(s.Label))
		}
	}
	p.ticks(r.Ticks, Moved, y+rowHeight-5, 5, "moves done")
	p.ticks(r.Ticks, Failed, y+rowHeight-9, 9, "moves aborted")
	p.printf("</g>\n")
}

// ticks draws those of one look as one path, since there are thousands.
func (p *picture) ticks(all []Tick, look Look, y float64, height int, what string) {
	var d strings.Builder
	n := 0
	for _, t := range all {
		if t.Look == look {
			n++
			fmt.Fprintf(&d, "M%s %sv%d", num(p.x(t.At)), num(y), height)
		}
	}
	if n > 0 {
		p.printf(`<path class="%s" d="%s"><title>%d %s</title></path>`, look, d.String(), n, what)
	}
}

func (p *picture) chart(c Chart, y float64) float64 {
	peak := max(1, slices.Max(append([]int{0}, c.Counts...)))
	rate := float64(peak) / c.Every.Seconds()
	base := y + chartHead + chartHeight
	p.printf(`<g><text class="head" x="0" y="%s">%s</text><text class="name" x="%d" y="%s">%.0f</text><text class="name" x="%d" y="%s">0</text>`,
		num(y+chartHead-5), html.EscapeString(c.Name), gutter-8, num(y+chartHead+9), rate, gutter-8, num(base-1))
	p.printf(`<path class="area" d="M%s %s`, num(p.x0), num(base))
	for i, n := range c.Counts {
		p.printf("L%s %s", num(p.x(min(p.m.Length, time.Duration(i)*c.Every+c.Every/2))), num(base-chartHeight*float64(n)/float64(peak)))
	}
	p.printf(`L%s %sZ"/><path class="base" d="M%s %sH%s"/></g>`+"\n", num(p.x1), num(base), num(p.x0), num(base), num(p.x1))
	return base
}
