// Package overlay changes the text of source files for one build, by the -overlay
// of the go command. What is built so differs from the program in what the edits
// say and in nothing else, and the program needs no switch for it.
package overlay

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Edit replaces text that stands in a file exactly once, so that a change of the
// file that takes its place away is noticed.
type Edit struct{ File, From, To string } // File is a slash-separated path from the root of the repository

// Write writes the files of the repository at root as they are after the edits
// into dir, and the list of them that -overlay takes; it returns the list's path.
func Write(root, dir string, edits []Edit) (string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return "", fmt.Errorf("root of the repository %q: %w", root, err)
	}
	changed := map[string]string{}
	for _, e := range edits {
		text, known := changed[e.File]
		if !known {
			raw, err := os.ReadFile(filepath.Join(root, e.File))
			if err != nil {
				return "", fmt.Errorf("%s is not the root of the repository: %w", root, err)
			}
			text = string(raw)
		}
		if n := strings.Count(text, e.From); n != 1 {
			return "", fmt.Errorf("%s holds %d times what is to be changed, once is needed: %q", e.File, n, e.From)
		}
		changed[e.File] = strings.Replace(text, e.From, e.To, 1)
	}
	replace := map[string]string{}
	for file, text := range changed {
		path := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", fmt.Errorf("writing the changed %s: %w", file, err)
		}
		replace[filepath.Join(root, file)] = path
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, list, 0o600)
}
