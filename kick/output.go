package kick

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// tail is the end of a run's output, as valid UTF-8.
func tail(runDir string) string {
	f, err := os.Open(filepath.Join(runDir, outputFile))
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	from := max(0, info.Size()-tailOutput)
	data, err := io.ReadAll(io.NewSectionReader(f, from, tailOutput))
	if err != nil {
		return ""
	}
	for from > 0 && len(data) > 0 && !utf8.RuneStart(data[0]) {
		data = data[1:] // the rest of a rune that was cut
	}
	return strings.ToValidUTF8(string(data), "\uFFFD")
}
