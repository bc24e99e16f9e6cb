package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// A block of the document is what the program writes: all between its marks, each on a line of its own.
const blockEnd = "<!-- /bench -->\n"

func blockBegin(name string) string { return "<!-- bench:" + name + " -->\n" }

var (
	marks = regexp.MustCompile(`(?m)^<!-- (?:bench:(\S+)|/bench) -->\n`)

	errNoBlock = errors.New("no such block")
)

// put replaces a block of the document, if there is one to write to.
func (o options) put(name, text string) error {
	if o.doc == "" {
		return nil
	}
	old, err := os.ReadFile(o.doc)
	if err != nil {
		return err
	}
	doc, err := replaceBlock(old, name, text)
	if err != nil {
		return fmt.Errorf("%s: %w", o.doc, err)
	}
	return replaceFile(o.doc, doc)
}

// replaceBlock is the document with another text in one block. All else stays.
func replaceBlock(doc []byte, name, text string) ([]byte, error) {
	if _, err := blocks(doc); err != nil {
		return nil, err
	}
	before, rest, found := bytes.Cut(doc, []byte(blockBegin(name)))
	if !found {
		return nil, fmt.Errorf("block %q: %w; put these two lines where its tables shall stand:\n%s%s", name, errNoBlock, blockBegin(name), blockEnd)
	}
	_, after, _ := bytes.Cut(rest, []byte(blockEnd))
	return fmt.Appendf(nil, "%s%s%s\n%s%s", before, blockBegin(name), bytes.TrimSpace([]byte(text)), blockEnd, after), nil
}

// blocks are the names of a document's blocks, in their order.
func blocks(doc []byte) (names []string, err error) {
	open := ""
	seen := map[string]bool{}
	for _, m := range marks.FindAllSubmatch(doc, -1) {
		switch name := string(m[1]); {
		case (name == "") == (open == ""):
			return nil, fmt.Errorf("mark %q after block %q: marks go in pairs", bytes.TrimSpace(m[0]), open)
		case seen[name]:
			return nil, fmt.Errorf("block %q is there twice", name)
		case name != "":
			names, seen[name], open = append(names, name), true, name
		default:
			open = ""
		}
	}
	if open != "" {
		return nil, fmt.Errorf("block %q does not end: %s is missing", open, bytes.TrimSpace([]byte(blockEnd)))
	}
	return names, nil
}

// replaceFile leaves the old file or the new one, however the program ends.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
