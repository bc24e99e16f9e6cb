package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
)

// readReply reads one reply of either version of the protocol and returns its bytes. It is written apart from the
// gate's own framing, which it judges.
func readReply(r *bufio.Reader) ([]byte, error) {
	return appendReply(nil, r)
}

func appendReply(raw []byte, r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	raw = append(raw, line...)
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return nil, fmt.Errorf("a reply begins with %q", line)
	}
	n, number := strconv.Atoi(string(line[1 : len(line)-2]))
	switch line[0] {
	case '+', '-', ':', '_', ',', '#', '(':
		return raw, nil
	case '$', '=', '!':
		if number != nil || n < -1 {
			return nil, fmt.Errorf("a reply has the length %q", line)
		}
		if n < 0 {
			return raw, nil
		}
		at := len(raw)
		raw = append(raw, make([]byte, n+2)...)
		_, err := io.ReadFull(r, raw[at:])
		return raw, err
	case '*', '~', '>', '%', '|':
		if number != nil {
			return nil, fmt.Errorf("a reply has the length %q", line)
		}
		if line[0] == '%' || line[0] == '|' {
			n *= 2
		}
		if line[0] == '|' {
			n++ // what the attributes are of
		}
		for range n {
			if raw, err = appendReply(raw, r); err != nil {
				return nil, err
			}
		}
		return raw, nil
	}
	return nil, fmt.Errorf("a reply begins with %q", line)
}

// value is a reply that has been read.
type value struct {
	kind byte
	text string // of what has no elements
	list []value
}

// parse reads a whole reply that readReply returned.
func parse(raw []byte) value {
	v, _ := cut(raw)
	return v
}

func cut(raw []byte) (v value, rest []byte) {
	line, rest, _ := bytes.Cut(raw, []byte("\r\n"))
	v.kind = line[0]
	n, _ := strconv.Atoi(string(line[1:]))
	switch v.kind {
	case '$', '=', '!':
		if n < 0 {
			v.kind = '_'
			return v, rest
		}
		v.text = string(rest[:n])
		return v, rest[n+2:]
	case '*', '~', '>', '%', '|':
		if n < 0 {
			v.kind = '_'
			return v, rest
		}
		if v.kind == '%' || v.kind == '|' {
			n *= 2
		}
		for range n {
			var element value
			element, rest = cut(rest)
			v.list = append(v.list, element)
		}
		return v, rest
	}
	v.text = string(line[1:])
	return v, rest
}

// decoded is the reply as clients give it to programs.
func (v value) decoded() any {
	switch v.kind {
	case '*', '~', '>':
		list := make([]any, len(v.list))
		for i, w := range v.list {
			list[i] = w.decoded()
		}
		return list
	case '%':
		m := map[any]any{}
		for i := 0; i+1 < len(v.list); i += 2 {
			m[v.list[i].decoded()] = v.list[i+1].decoded()
		}
		return m
	case ':':
		n, _ := strconv.ParseInt(v.text, 10, 64)
		return n
	case '_':
		return nil
	}
	return v.text
}
