# A stand-in for NVIDIA's image, in its layout: the wheel's Triton with its libraries in /opt/tritonserver, Debian's Python
# with pip and numpy, the user 1000. Where NVIDIA's has the onnxruntime backend in C++, this has the package's own. So it
# shows paths, user, packages and the command; nothing of CUDA, of the C++ backend or of newer Tritons.
# hadolint ignore=DL3006
FROM rejection-packages AS packages

# hadolint ignore=DL3006
FROM rejection-python
ARG SITE=/opt/rejection/lib/python3.11/site-packages
ARG TRITON=$SITE/pytriton/tritonserver
COPY --from=packages $SITE/pip /usr/local/lib/python3.11/dist-packages/pip
COPY --from=packages $TRITON/bin /opt/tritonserver/bin
COPY --from=packages $TRITON/caches /opt/tritonserver/caches
COPY --from=packages $TRITON/backends /opt/tritonserver/backends
COPY --from=packages $TRITON/python_backend_stubs/3.11/triton_python_backend_stub /opt/tritonserver/backends/python/
COPY --from=packages $SITE/nvidia_pytriton.libs /opt/tritonserver/lib
COPY --from=packages $SITE/onnxruntime /usr/local/lib/python3.11/dist-packages/onnxruntime
COPY --from=packages $SITE/numpy /usr/local/lib/python3.11/dist-packages/numpy
COPY --from=packages $SITE/numpy.libs /usr/local/lib/python3.11/dist-packages/numpy.libs
COPY server/rejection_server/onnx_backend/model.py /opt/tritonserver/backends/onnxruntime/model.py
RUN useradd --uid 1000 triton-server
USER 1000:1000
