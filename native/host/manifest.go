// Where a project's newest checkpoint is, and whether another one can be kept.

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/native/project"
	machine "github.com/ravnest/ravnest/signaling/run"
)

// manifestFiles are where the manifest of a project's newest checkpoint is: in the store, and a
// copy for readers, which is older where a disk was full.
func manifestFiles(p *project.Project) []string {
	return []string{
		filepath.Join(p.Dir, project.StoreDir, filepath.FromSlash(machine.ManifestObject(p.RunID()))),
		filepath.Join(p.Dir, project.ManifestFile),
	}
}

// readManifest reads the newest checkpoint's manifest: the store's if all that it names is there,
// else its copy.
func readManifest(p *project.Project) (*snapshot.Manifest, error) {
	files := manifestFiles(p)
	if m, err := parseManifest(p, files[0]); err == nil && !slices.ContainsFunc(m.Parts, func(e snapshot.Entry) bool {
		info, err := os.Stat(filepath.Join(p.Dir, project.StoreDir, filepath.FromSlash(e.Object)))
		return !filepath.IsLocal(e.Object) || err != nil || info.Size() != e.Size
	}) {
		return m, nil
	}
	return parseManifest(p, files[1])
}

// writable checks that files can be made where a host keeps checkpoints and results.
func writable(p *project.Project) error {
	for _, sub := range []string{"", "node_data", project.StoreDir} {
		dir := filepath.Join(p.Dir, sub)
		if _, err := os.Stat(dir); err != nil && sub != "" {
			continue // it is made later
		}
		f, err := os.CreateTemp(dir, ".writable-*")
		if err != nil {
			return fmt.Errorf("%s cannot be written, but checkpoints and results are kept there: %w: allow this user to write it, or use a copy of the job in a directory that can be written", dir, err)
		}
		_ = f.Close()
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}
