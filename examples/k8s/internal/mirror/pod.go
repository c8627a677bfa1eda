// SPDX-License-Identifier: Apache-2.0

package mirror

import corev1 "k8s.io/api/core/v1"

// Living is a field selector without the pods that have ended, of which no address and no
// label counts.
const Living = "status.phase!=" + string(corev1.PodSucceeded) + ",status.phase!=" + string(corev1.PodFailed)

// Ended reports whether a pod has ended.
func Ended(x *corev1.Pod) bool {
	return x.Status.Phase == corev1.PodSucceeded || x.Status.Phase == corev1.PodFailed
}

// PodUID returns the UID of a pod that the container runtime knows. The object of a static pod
// has another one.
func PodUID(x *corev1.Pod) string {
	if static := x.Annotations[corev1.MirrorPodAnnotationKey]; static != "" {
		return static
	}
	return string(x.UID)
}
