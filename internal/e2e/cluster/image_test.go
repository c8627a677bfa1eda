// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"runtime"
)

// writeImage writes an image of one program, given as the paths in the image and on this
// machine, to a file that `ctr images import` reads: an OCI image layout in a tar archive, see
// https://github.com/opencontainers/image-spec/blob/main/image-layout.md.
func writeImage(file, name, program, from string) error {
	type object = map[string]any
	blobs := map[string][]byte{}
	put := func(mediaType string, b []byte) object {
		sum := sha256.Sum256(b)
		digest := hex.EncodeToString(sum[:])
		blobs["blobs/sha256/"+digest] = b
		return object{"mediaType": mediaType, "digest": "sha256:" + digest, "size": len(b)}
	}
	putJSON := func(mediaType string, v object) (object, error) {
		b, err := json.Marshal(v)
		return put(mediaType, b), err
	}
	layer, err := layerOf(program, from)
	if err != nil {
		return err
	}
	content := put("application/vnd.oci.image.layer.v1.tar", layer)
	config, err := putJSON("application/vnd.oci.image.config.v1+json", object{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": object{"Entrypoint": []string{program}},
		"rootfs": object{"type": "layers", "diff_ids": []any{content["digest"]}},
	})
	if err != nil {
		return err
	}
	manifest, err := putJSON("application/vnd.oci.image.manifest.v1+json", object{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []object{content},
	})
	if err != nil {
		return err
	}
	manifest["annotations"] = object{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
	index, err := json.Marshal(object{"schemaVersion": 2, "manifests": []object{manifest}})
	if err != nil {
		return err
	}
	blobs["index.json"], blobs["oci-layout"] = index, []byte(`{"imageLayoutVersion":"1.0.0"}`)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range blobs {
		if err := add(w, name, 0o644, content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// layerOf returns a program, and the directories that a runtime mounts over, as a tar archive.
func layerOf(program, from string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "tmp"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return nil, err
	}
	if err := add(w, program[1:], 0o755, content); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

func add(w *tar.Writer, name string, mode int64, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
