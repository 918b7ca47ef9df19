"use strict";
Redoc.init("/openapi.json", { hideDownloadButtons: false }, document.getElementById("docs"));
