// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// Charts are SVG elements; the style of the page sets their colours by class. Plot
// libraries would add fonts, PDF and image codecs to the module graph of every user
// of this module, and their pictures cannot follow the dark mode of the reader.

// chart is a plot of lines or of points.
type chart struct {
	title, xLabel, yLabel string
	series                []series
	// xMax and yMax are the ends of the axes, so that charts can be compared.
	// Zero means the maximum of the data. The axes start at zero.
	xMax, yMax float64
	// logY makes the y axis logarithmic, starting at 1.
	logY bool
	// points draws labelled points instead of lines.
	points        bool
	width, height float64
}

type series struct {
	name, class string
	x, y        []float64
	// tips are the tooltips of the points.
	tips []string
}

const (
	marginLeft, marginRight  = 52.0, 14.0
	marginTop, marginBottom  = 26.0, 34.0
	ticksAcross, ticksUpward = 6, 4
)

// svg returns the chart as an SVG element.
func (c chart) svg() string {
	c.fit()
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s"><text class="title" x="%g" y="15">%s</text>`,
		c.width, c.height, html.EscapeString(c.title), marginLeft, html.EscapeString(c.title))
	c.axes(&b)
	for _, s := range c.series {
		if c.points {
			c.dots(&b, s)
		} else {
			c.line(&b, s)
		}
	}
	b.WriteString("</svg>")
	return b.String()
}

// file returns the chart as an SVG file in light colours.
func (c chart) file() string {
	attributes := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%g" height="%g" `, c.width, c.height)
	body, _ := strings.CutPrefix(c.svg(), "<svg ")
	head, rest, _ := strings.Cut(body, ">")
	return attributes + head + "><style>" + fileStyle + `</style><rect width="100%" height="100%" fill="#fff"/>` + rest + "\n"
}

const fileStyle = "text{fill:#1d2430;font:12px sans-serif}.tick{fill:#667085;font-size:11px}.title{font-weight:600}" +
	".grid{stroke:#dfe3e8}polyline{fill:none;stroke-width:1.6}.held{stroke:#3b76c4}.used{stroke:#2a9d6f}.peak{stroke:#2a9d6f;stroke-width:.7;stroke-dasharray:3 2}.waiting{stroke:#d1495b}" +
	".calls{stroke:#8250a8}.dot circle{fill:none;stroke:#3b76c4;stroke-width:1.8}.dot.waits circle{stroke:#d1495b}" +
	".dot.front circle{fill:#3b76c4}.dot.front.waits circle{fill:#d1495b}"

// fit computes the ends of the axes.
func (c *chart) fit() {
	xMax, yMax := c.xMax, c.yMax
	for _, s := range c.series {
		for i := range s.x {
			if c.xMax == 0 {
				xMax = max(xMax, s.x[i])
			}
			if c.yMax == 0 {
				yMax = max(yMax, s.y[i])
			}
		}
	}
	c.xMax, c.yMax = max(xMax, 1e-9), max(yMax*1.05, 1e-9)
	if c.points {
		c.xMax *= 1.12
	}
	if c.logY {
		c.yMax = math.Pow(10, math.Ceil(math.Log10(max(10, c.yMax))))
	}
}

func (c chart) px(x float64) float64 {
	return marginLeft + x/c.xMax*(c.width-marginLeft-marginRight)
}

func (c chart) py(y float64) float64 {
	part := y / c.yMax
	if c.logY {
		part = math.Log10(max(1, y)) / math.Log10(c.yMax)
	}
	return c.height - marginBottom - part*(c.height-marginTop-marginBottom)
}

func (c chart) axes(b *strings.Builder) {
	bottom := c.height - marginBottom
	for _, x := range ticks(c.xMax, ticksAcross) {
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text class="tick" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`,
			c.px(x), c.px(x), marginTop, bottom, c.px(x), bottom+13, number(x))
	}
	up := ticks(c.yMax, ticksUpward)
	if c.logY {
		up = nil
		for y := 1.0; y <= c.yMax; y *= 10 {
			up = append(up, y)
		}
	}
	for _, y := range up {
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text class="tick" text-anchor="end" x="%.1f" y="%.1f">%s</text>`,
			marginLeft, c.width-marginRight, c.py(y), c.py(y), marginLeft-5, c.py(y)+3.5, number(y))
	}
	fmt.Fprintf(b, `<text class="tick" text-anchor="end" x="%.1f" y="%.1f">%s</text>`, c.width-marginRight, bottom+27, html.EscapeString(c.xLabel))
	fmt.Fprintf(b, `<text class="tick" transform="translate(11 %.1f) rotate(-90)" text-anchor="middle">%s</text>`, (marginTop+bottom)/2, html.EscapeString(c.yLabel))
}

func (c chart) line(b *strings.Builder, s series) {
	fmt.Fprintf(b, `<polyline class="%s" points="`, s.class)
	for i := range s.x {
		fmt.Fprintf(b, "%.1f,%.1f ", c.px(s.x[i]), c.py(s.y[i]))
	}
	fmt.Fprintf(b, `"><title>%s</title></polyline>`, html.EscapeString(s.name))
}

func (c chart) dots(b *strings.Builder, s series) {
	for i := range s.x {
		x, y := c.px(s.x[i]), c.py(s.y[i])
		fmt.Fprintf(b, `<g class="%s"><circle cx="%.1f" cy="%.1f" r="5"><title>%s</title></circle><text class="tick" text-anchor="middle" x="%.1f" y="%.1f">%s</text></g>`,
			s.class, x, y, html.EscapeString(s.tips[i]), x, y-8, html.EscapeString(s.name))
	}
}

// ticks returns about n round numbers from zero to most.
func ticks(most float64, n int) []float64 {
	step := math.Pow(10, math.Floor(math.Log10(most/float64(n))))
	for _, k := range []float64{1, 2, 5, 10} {
		if most/(step*k) <= float64(n) {
			step *= k
			break
		}
	}
	var out []float64
	for i := 0; float64(i)*step <= most; i++ {
		out = append(out, float64(i)*step)
	}
	return out
}

// number formats a number for an axis.
func number(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 3, 64) + "M"
	case v >= 1e4:
		return strconv.FormatFloat(v/1e3, 'g', 3, 64) + "k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}
