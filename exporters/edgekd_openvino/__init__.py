"""OpenVINO: IR files (``model.xml`` with ``model.bin``), INT8 by NNCF, and sessions that say what they run in."""
